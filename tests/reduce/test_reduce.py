"""PCA against NumPy's SVD, whitening in closed form, and the files of the reduce stage."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from maskmill.errors import NumericsError, StoreError
from maskmill.reduce import run
from maskmill.reduce.pca import Params, fit, transform
from maskmill.store.artefact import read_tensors, write_tensors
from maskmill.store.ragged import Ragged, RaggedWriter


def data(n: int = 2000, d: int = 12, offset: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.standard_normal((n, d)) @ (rng.standard_normal((d, d)) * np.geomspace(3, 0.1, d)) + offset).astype("f4")


def blocks(x: np.ndarray, size: int = 300) -> Iterator[np.ndarray]:
    return (x[start : start + size] for start in range(0, len(x), size))


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_components_are_those_of_the_svd(offset: float) -> None:
    x = data(offset=offset)
    model, diagnostics = fit(lambda: blocks(x), Params(dimensions=5, whiten=0, normalise=False), 0)
    y = x.astype(np.float64) - x.astype(np.float64).mean(0)
    _, s, v = np.linalg.svd(y, full_matrices=False)
    np.testing.assert_allclose(model["variance"], (s**2 / len(x))[:5], rtol=1e-8)
    v = v[:5] * np.sign(v[np.arange(5), np.abs(v[:5]).argmax(1)])[:, None]
    np.testing.assert_allclose(model["components"], v, atol=1e-5)
    assert diagnostics["explained"] == pytest.approx((s[:5] ** 2).sum() / (s**2).sum())
    projected = transform(x, model, Params(dimensions=5, whiten=0, normalise=False))
    np.testing.assert_allclose(projected, y @ v.T, atol=1e-3 if offset == 0 else 2e-2)


def test_full_whitening_gives_the_identity_and_half_its_square_root() -> None:
    x = data()
    full = Params(dimensions=12, whiten=0.5, normalise=False)
    model, _ = fit(lambda: blocks(x), full, 0)
    np.testing.assert_allclose(np.cov(transform(x, model, full).T, bias=True), np.eye(12), atol=1e-4)
    half = Params(dimensions=12, whiten=0.25, normalise=False)
    model, _ = fit(lambda: blocks(x), half, 0)
    covariance = np.cov(transform(x, model, half).T, bias=True)
    np.testing.assert_allclose(np.diag(covariance), np.sqrt(model["variance"]), rtol=1e-3)


def test_uncentred_is_the_second_moment_and_unit_length_is_unit() -> None:
    x = data() + 2
    params = Params(dimensions=3, center=False)
    model, _ = fit(lambda: blocks(x), params, 0)
    np.testing.assert_allclose(
        model["variance"], np.linalg.svd(x.astype(np.float64), compute_uv=False)[:3] ** 2 / len(x), rtol=1e-6
    )
    assert not model["mean"].any()
    np.testing.assert_allclose(np.linalg.norm(transform(x, model, params), axis=1), 1, atol=1e-5)


def test_blocks_threads_and_float16_change_nothing() -> None:
    x = data().astype(np.float16)
    params = Params(dimensions=6)
    first, _ = fit(lambda: blocks(x, 256), params, 0)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        second, _ = fit(lambda: blocks(x, 256), params, 0)
    finally:
        torch.set_num_threads(before)
    third, _ = fit(lambda: blocks(x.astype(np.float32), 1999), params, 0)
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])
        np.testing.assert_allclose(first[name], third[name], atol=1e-5)


def test_constant_columns_are_fine_and_dimensions_end_with_the_variance(capsys: pytest.CaptureFixture[str]) -> None:
    x = np.concatenate([data(d=4), np.full((2000, 3), 7, np.float32)], axis=1)
    model, diagnostics = fit(lambda: blocks(x), Params(dimensions=4), 0)
    assert diagnostics["rank"] == 4
    assert np.isfinite(transform(x, model, Params(dimensions=4))).all()
    assert not capsys.readouterr().err
    fewer, _ = fit(lambda: blocks(x), Params(dimensions=5), 0)
    np.testing.assert_array_equal(fewer["components"], model["components"])
    assert "keeping 4 of the 5 that reduce.dimensions asks for" in capsys.readouterr().err
    with pytest.raises(NumericsError, match="all equal"):
        fit(lambda: blocks(x[:1]), Params(dimensions=1), 0)
    with pytest.raises(NumericsError, match="no vectors"):
        fit(lambda: iter(()), Params(dimensions=1), 0)
    with pytest.raises(NumericsError, match="length 3"):
        transform(x[:, :3], model, Params(dimensions=4))
    x[5, 0] = np.inf
    with pytest.raises(NumericsError, match="NaN"):
        fit(lambda: blocks(x), Params(dimensions=2), 0)


def write(path: Path, images: dict[str, np.ndarray], dtype: str = "float16") -> Path:
    with RaggedWriter(path, "features", depth=12, dtype=dtype, attrs={"stride": 16}) as out:
        for image_id, tokens in images.items():
            out.append(image_id, tokens, cls=np.zeros(12, np.float16), size=np.array([64, 64], np.int32))
    return path


@pytest.mark.parametrize(("dtype", "limit"), [("float16", 10_000), ("int8", 10_000), ("float16", 200)])
def test_files_do_not_depend_on_shards(tmp_path: Path, dtype: str, limit: int) -> None:
    x = data(600)
    images = {name: x[i * 100 : i * 100 + 100].reshape(10, 10, 12) for i, name in enumerate("fbdaec")}
    params = {"method": "pca", "max_fit_points": limit, "dimensions": 5, "whiten": 0.5}
    whole = write(tmp_path / "all.zarr", images, dtype)
    parts = [write(tmp_path / f"{name}.zarr", {name: images[name]}, dtype) for name in images]
    run.fit([whole], params, 0, tmp_path / "one.safetensors", 1)
    run.fit(parts, params, 0, tmp_path / "many.safetensors", 2)
    one, many = read_tensors(tmp_path / "one.safetensors")[0], read_tensors(tmp_path / "many.safetensors")[0]
    for name in one:
        np.testing.assert_array_equal(one[name], many[name])
    assert one["diagnostics.points"] == min(limit, 600) - (2 if limit == 200 else 0)
    run.transform(whole, tmp_path / "one.safetensors", params, tmp_path / "out.zarr", 1)
    out = Ragged(tmp_path / "out.zarr", "features")
    assert (out.ids, out.depth, out.attrs, out.per_image_names) == (list("fbdaec"), 5, {"stride": 16}, ["size"])
    assert out.grid.tolist() == [[10, 10]] * 6
    own = Params(dimensions=5, whiten=0.5)
    expected = transform(Ragged(whole)["d"].reshape(100, 12), one, own).reshape(10, 10, 5)
    np.testing.assert_allclose(out["d"], expected, atol=1e-3)
    write_tensors(tmp_path / "x.safetensors", {"x": np.zeros(2)})
    with pytest.raises(StoreError, match="not a model"):
        run.transform(whole, tmp_path / "x.safetensors", params, tmp_path / "out.zarr", 1)


def test_standardised_components_are_those_of_scaled_data() -> None:
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    x = data(offset=3.0) * np.geomspace(1, 1000, 12, dtype="f4")
    x[:, 5] = 7  # a constant dimension has no say
    params = Params(dimensions=4, whiten=0, standardise=True, normalise=False)
    model, diagnostics = fit(lambda: blocks(x), params, 0)
    scaled = StandardScaler().fit_transform(x.astype(np.float64))
    expected = PCA(4, svd_solver="full").fit(scaled)
    np.testing.assert_allclose(model["variance"], expected.explained_variance_ * (1 - 1 / len(x)), rtol=1e-4)
    assert diagnostics["explained"] == pytest.approx(expected.explained_variance_ratio_.sum(), rel=1e-4)
    y = expected.transform(scaled)
    got = transform(x, model, params)
    np.testing.assert_allclose(got * np.sign((got * y).sum(0)), y, atol=1e-2)

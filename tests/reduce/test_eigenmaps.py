"""Neighbours against all pairs, eigenmaps in closed form, and their extension to vectors that were not fitted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from maskmill.errors import NumericsError
from maskmill.numerics.neighbours import NeighbourIndex
from maskmill.reduce import run
from maskmill.reduce._graph import eigenmaps
from maskmill.reduce.laplacian import Params, extend, fit, prepare, symmetrised, transform
from maskmill.store.artefact import read_tensors
from maskmill.store.ragged import Ragged, RaggedWriter


def clusters(n: int = 600, d: int = 8, k: int = 6, spread: float = 1.5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Overlapping Gaussians [n, d] float32 and their labels."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, k, n)
    return (spread * rng.standard_normal((k, d))[label] + rng.standard_normal((n, d))).astype(np.float32), label


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_blocked_neighbours_are_those_of_all_pairs(metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maskmill.numerics.neighbours.ROWS", 100)
    monkeypatch.setattr("maskmill.numerics.neighbours.COLUMNS", 130)
    x = clusters()[0] + np.float32(50)
    points = NeighbourIndex.of(x, metric, "reduce")  # type: ignore[arg-type]
    found, distances = points.nearest(points.ready, 9)
    y = x.astype(np.float64)
    if metric == "cosine":
        y /= np.linalg.norm(y, axis=1, keepdims=True)
    full = ((y[:, None] - y) ** 2).sum(-1)
    full = full / 2 if metric == "cosine" else np.sqrt(full)
    np.testing.assert_allclose(distances, np.sort(full, 1)[:, :9], atol=1e-5 if metric == "cosine" else 1e-3)
    assert (found[:, 0] == np.arange(len(x))).all()
    if metric == "euclidean":
        radius = distances[:, 4]
        reached = points.reached(points.ready, radius).toarray() > 0
        unsure = np.abs(full - radius) < 1e-3
        assert ((reached == (full <= radius)) | unsure).all()


def test_descent_recalls_the_exact_neighbours_on_any_number_of_threads() -> None:
    x = clusters(3000, 16, 20)[0]
    points = NeighbourIndex.of(x, "euclidean", "reduce")
    exact, _ = points.graph(15, 0)
    before = torch.get_num_threads()
    runs = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            runs.append(points.graph(15, 0, exact=100))
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(runs[0][0], runs[1][0])
    np.testing.assert_array_equal(runs[0][1], runs[1][1])
    recall = np.mean([len(set(a) & set(b)) / 15 for a, b in zip(exact, runs[0][0], strict=True)])
    assert recall >= 0.95
    assert (runs[0][0][:, 0] == np.arange(3000)).all()


def test_equal_points_keep_themselves_first() -> None:
    points = NeighbourIndex.of(np.zeros((40, 3), np.float32), "euclidean", "reduce")
    found, distances = points.graph(5, 0)
    assert (found[:, 0] == np.arange(40)).all()
    assert not distances.any()
    assert all(len(set(row)) == 5 for row in found)


@pytest.mark.parametrize("n", [101, 1500])
def test_a_circle_has_the_eigenvectors_of_fourier(n: int) -> None:
    row = np.arange(n)
    half = sp.csr_array((np.ones(n), (row, (row + 1) % n)), shape=(n, n))
    y, mu = eigenmaps(sp.csr_array(half + half.T), 5, 0)
    np.testing.assert_allclose(mu, np.cos(2 * np.pi * np.array([0, 1, 1, 2, 2]) / n), atol=1e-9)
    np.testing.assert_allclose(y[:, 0], 1, atol=1e-9)
    np.testing.assert_allclose(y.T @ y / n, np.eye(5), atol=1e-6)
    for pair, frequency in ((slice(1, 3), 1), (slice(3, 5), 2)):  # a rotation of (cos, sin) of the frequency
        wave = np.stack([np.cos(2 * np.pi * frequency * row / n), np.sin(2 * np.pi * frequency * row / n)], 1)
        np.testing.assert_allclose(np.abs(np.linalg.det(wave.T @ y[:, pair])) * 2 / n**2, 1, atol=1e-4)


def test_a_path_has_cosines() -> None:
    n = 60
    graph = sp.diags_array([np.ones(n - 1), np.ones(n - 1)], offsets=[1, -1]).tocsr()
    y, mu = eigenmaps(sp.csr_array(graph), 4, 0)
    np.testing.assert_allclose(mu, np.cos(np.pi * np.arange(4) / (n - 1)), atol=1e-10)
    expected = np.cos(np.pi * np.arange(4) * np.arange(n)[:, None] / (n - 1))
    expected[:, 1:] *= np.sqrt(2)
    np.testing.assert_allclose(np.abs(y), np.abs(expected), atol=1e-6)


def test_the_laplacian_is_that_of_scipy_and_keeps_the_constant_first() -> None:
    x = clusters()[0]
    found, _ = NeighbourIndex.of(x, "euclidean", "reduce").graph(12, 0)
    full = np.zeros((len(x), len(x)))
    np.put_along_axis(full, found, 1.0, 1)  # includes self, as kneighbors_graph(include_self=True)
    full = 0.5 * (full + full.T)
    laplacian, root = sp.csgraph.laplacian(full, normed=True, return_diag=True)
    values, vectors = np.linalg.eigh(laplacian)
    np.fill_diagonal(full, 0)
    np.testing.assert_array_equal(symmetrised(found).toarray(), full)
    model, _ = fit(lambda: iter([x]), Params(dimensions=5, neighbours=12), 0)
    np.testing.assert_allclose(1 - model["eigenvalues"], values[:5], atol=1e-9)
    reference = vectors[:, :5] / root[:, None]
    for mine, theirs in zip(model["embedding"].T, reference.T, strict=True):
        assert abs(mine @ theirs) / np.linalg.norm(mine) / np.linalg.norm(theirs) == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(model["embedding"][:, 0], 1, atol=1e-5)
    assert (model["embedding"][np.abs(model["embedding"]).argmax(0), range(5)] > 0).all()
    without, _ = fit(lambda: iter([x]), Params(dimensions=4, neighbours=12, keep_first=False), 0)
    np.testing.assert_allclose(without["embedding"], model["embedding"][:, 1:], atol=1e-5)


@pytest.mark.parametrize("n", [300, 2400])
def test_far_clusters_are_told_apart(n: int, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    label = np.arange(n) % 3 == 0
    x = (rng.standard_normal((n, 5)) + 100 * label[:, None]).astype(np.float32)
    params = Params(dimensions=3, neighbours=15)
    model, diagnostics = fit(lambda: iter([x]), params, 0)
    assert diagnostics["parts"] == 2
    assert "2 parts" in capsys.readouterr().err
    small, large = model["embedding"][label], model["embedding"][~label]
    np.testing.assert_allclose(large[:, 0], np.sqrt(1.5), rtol=0.1)  # the larger part first, 0 on the other
    assert not small[:, 0].any()
    assert not large[:, 1].any()
    new = transform(np.full((1, 5), 99, np.float32), prepare(model, params), params)
    assert new[0, 0] == pytest.approx(0, abs=1e-6)
    assert new[0, 1] > 1


def test_more_parts_than_dimensions_take_more_neighbours(capsys: pytest.CaptureFixture[str]) -> None:
    x = (np.random.default_rng(0).standard_normal((90, 4)) + 40 * (np.arange(90) % 6)[:, None]).astype(np.float32)
    model, _ = fit(lambda: iter([x]), Params(dimensions=3, neighbours=5), 0)
    assert "trying 10 neighbours" in capsys.readouterr().err
    assert model["neighbours"] >= 20
    assert np.isfinite(model["embedding"]).all()


def test_the_extension_gives_fitted_vectors_their_place() -> None:
    x, label = clusters(1500)
    params = Params(dimensions=6, neighbours=20)
    model, _ = fit(lambda: iter([x]), params, 0)
    fitted = prepare(model, params)
    np.testing.assert_array_equal(transform(x, fitted, params), model["embedding"])
    # The formula itself, of the neighbours without the vector: the eigenvector equation.
    found, _ = fitted.points.graph(20, 0)
    reached = fitted.points.reached(fitted.points.ready, fitted.radius * np.float32(1.00001))  # rounding
    reached = sp.csr_array(reached - sp.eye_array(len(x)))
    reached.eliminate_zeros()
    np.testing.assert_allclose(extend(found[:, 1:], reached, fitted.extended), model["embedding"], atol=2e-3)
    near = transform(x + np.float32(1e-3), fitted, params)
    assert np.abs(near - model["embedding"]).mean() < 0.02
    new, new_label = clusters(400, seed=0)
    new = new + np.random.default_rng(1).normal(0, 0.3, new.shape).astype(np.float32)
    nearest = NeighbourIndex.of(model["embedding"], "euclidean", "reduce")
    voted = label[nearest.nearest(nearest.prepare(transform(new, fitted, params)), 1)[0][:, 0]]
    raw = label[fitted.points.nearest(fitted.points.prepare(new), 1)[0][:, 0]]
    assert (voted == new_label).mean() > (raw == new_label).mean() - 0.05


def test_unit_length_and_single_rows() -> None:
    x = clusters()[0]
    params = Params(dimensions=4, neighbours=10, metric="cosine", normalise=True)
    model, _ = fit(lambda: iter([x]), params, 0)
    fitted = prepare(model, params)
    new = clusters(50, seed=3)[0]
    together = transform(new, fitted, params)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(np.concatenate([transform(r[None], fitted, params) for r in new]), together, atol=1e-5)
    assert transform(new[:0], fitted, params).shape == (0, 4)


def test_repeated_rows_count_once(capsys: pytest.CaptureFixture[str]) -> None:
    x = clusters(200)[0]
    params = Params(dimensions=3, neighbours=10)
    once, _ = fit(lambda: iter([x]), params, 0)
    twice, diagnostics = fit(lambda: iter([x, x[::-1]]), params, 0)
    assert diagnostics["distinct"] == 200
    assert "200 of 400 vectors repeat" in capsys.readouterr().err
    for name in once:
        np.testing.assert_array_equal(once[name], twice[name])


def test_bad_samples_are_named() -> None:
    x = clusters(100)[0]
    small = Params(dimensions=3, neighbours=10)
    bad = x.copy()
    bad[4, 2] = np.nan
    for rows, params, message in (
        (bad, small, "NaN"),
        (np.ones((50, 3), np.float32), small, "all 50 vectors are equal"),
        (x[:10], small, r"reduce.neighbours: 10 .* more than the 10 distinct .* set reduce.neighbours to 3"),
        (x[:30], Params(dimensions=30, neighbours=5), "reduce.dimensions: 30"),
        (x[:30], Params(dimensions=29, neighbours=5), r"reduce.dimensions: only \d+ eigenvectors"),
        (x, Params(neighbours=10, memory_gb=0.7), r"reduce.max_fit_points: .* needs about .* 0 vectors fit"),
    ):
        with pytest.raises(NumericsError, match=message):
            fit(lambda rows=rows: iter([rows]), params, 0)
    with pytest.raises(NumericsError, match="no vectors"):
        fit(lambda: iter(()), small, 0)
    fitted = prepare(fit(lambda: iter([x]), small, 0)[0], small)
    with pytest.raises(NumericsError, match="length 3"):
        transform(x[:, :3], fitted, small)
    with pytest.raises(NumericsError, match="NaN"):
        transform(bad, fitted, small)


def test_files_do_not_depend_on_shards_or_threads(tmp_path: Path) -> None:
    x = clusters(600, 12)[0].astype(np.float16)
    images = {name: x[i * 100 : i * 100 + 100].reshape(10, 10, 12) for i, name in enumerate("fbdaec")}

    def write(path: Path, names: str) -> Path:
        with RaggedWriter(path, "features", depth=12) as out:
            for name in names:
                out.append(name, images[name])
        return path

    params = {"method": "laplacian", "max_fit_points": 300, "dimensions": 5, "neighbours": 12}
    whole = write(tmp_path / "all.zarr", "fbdaec")
    parts = [write(tmp_path / f"{name}.zarr", name) for name in images]
    run.fit([whole], params, 0, tmp_path / "one.safetensors", 1)
    run.fit(parts, params, 0, tmp_path / "many.safetensors", 2)
    assert (tmp_path / "one.safetensors").read_bytes()[-4096:] == (tmp_path / "many.safetensors").read_bytes()[-4096:]
    one, many = read_tensors(tmp_path / "one.safetensors")[0], read_tensors(tmp_path / "many.safetensors")[0]
    for name in one:
        np.testing.assert_array_equal(one[name], many[name])
    run.transform(whole, tmp_path / "one.safetensors", params, tmp_path / "out.zarr", 1)
    run.transform(parts[3], tmp_path / "many.safetensors", params, tmp_path / "a.zarr", 2)
    with pytest.raises(NumericsError, match=r"a fit on 300 vectors of length 12 needs about .* 0 vectors fit"):
        run.fit([whole], params | {"memory_gb": 0.5}, 0, tmp_path / "x.safetensors", 1)
    out = Ragged(tmp_path / "out.zarr", "features")
    assert (out.depth, out.grid.tolist()) == (5, [[10, 10]] * 6)
    np.testing.assert_array_equal(out["a"], Ragged(tmp_path / "a.zarr")["a"])

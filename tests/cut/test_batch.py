"""Images cut together, as on a GPU, against images cut one by one."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from reference_ncut import scene
from scipy.linalg import block_diag

from maskmill.cut import maskcut, ncut
from maskmill.cut import run as stage
from maskmill.cut._affinity import BinaryAffinity, BinaryBatch
from maskmill.cut._batch import solve_batch
from maskmill.cut._engine import SMALL, solve
from maskmill.cut._together import cut_together
from maskmill.errors import DeviceError, NumericsError
from maskmill.recipe import registry
from maskmill.store.ragged import Ragged, RaggedWriter

EPS = 1e-5
gpu = pytest.param("cuda", marks=pytest.mark.gpu)
DEVICES = ["cpu", gpu]


def need(device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")


def images(count: int = 6, h: int = 14, w: int = 17) -> np.ndarray:
    return np.stack([scene(h, w, seed) for seed in range(count)])


def generators(count: int) -> list[np.random.Generator]:
    return [np.random.default_rng(i) for i in range(count)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("pairs", [1, 3])
def test_a_batch_is_its_images_one_by_one(device: str, pairs: int) -> None:
    need(device)
    tokens = torch.from_numpy(images().reshape(6, 238, -1))
    keep = torch.from_numpy(np.random.default_rng(0).random((6, 238)) > 0.2)
    for painted in (False, True):
        batch = BinaryBatch.of(tokens.to(device), 0.2, EPS)
        batch = batch.painted(keep.to(device)) if painted else batch
        found = solve_batch(batch, pairs, generators(6))
        for i, spectrum in enumerate(found):
            single = BinaryAffinity.of(tokens[i], 0.2, EPS)
            single = single.painted(keep[i]) if painted else single
            np.testing.assert_array_equal(batch.one(i).dense() > 0.5, single.dense() > 0.5)
            assert batch.density[i] == pytest.approx(single.density, abs=1e-12)
            expected = solve(single, pairs, np.random.default_rng(i))
            np.testing.assert_allclose(spectrum.values[:pairs], expected.values[:pairs], atol=1e-4)
            inner = (spectrum.vectors.cpu() * single.degree) @ expected.vectors.T
            np.testing.assert_allclose(inner.abs().diagonal(), 1, atol=1e-3)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("method", [ncut, maskcut])
@pytest.mark.parametrize("shape", [(14, 17), (20, 20), (1, 1), (7, 9)])
def test_masks_do_not_depend_on_the_batch(device: str, method: ModuleType, shape: tuple[int, int]) -> None:
    need(device)
    tokens, ids = images(5, *shape), [f"im/{i}" for i in range(5)]
    tokens[3] = 1  # nothing to cut
    together = method.cut_batch(tokens, method.Params(), 3, ids, device)
    for i, (mask, diagnostics) in enumerate(together):
        expected, single = method.cut(tokens[i], method.Params(), 3, ids[i])
        np.testing.assert_array_equal(mask, expected)
        assert set(diagnostics) == set(single)
        for name in ("confidence", "lambda_2", "density", "outcome", "rivals"):
            assert diagnostics[name] == pytest.approx(single[name], abs=2e-2 if name == "confidence" else 1e-4)
        (alone, _), *_ = method.cut_batch(tokens[i : i + 1], method.Params(), 3, ids[i : i + 1], device)
        np.testing.assert_array_equal(alone, expected)


def test_published_rules_in_a_batch() -> None:
    tokens, params = images(6, 16, 16), maskcut.Params(compat="cutler")
    for i, (mask, _) in enumerate(maskcut.cut_batch(tokens, params, 0, list("abcdef"), "cpu")):
        np.testing.assert_array_equal(mask, maskcut.cut(tokens[i], params, 0, "abcdef"[i])[0])


def test_images_that_need_care_are_solved_alone() -> None:
    """Equal cliques (no unique vector), cliques whose eigenvalues float32 can not tell apart, and a plain graph."""
    n = 120
    graphs = [
        np.kron(np.eye(3), np.ones((40, 40))),
        block_diag(np.ones((20, 20)), np.ones((30, 30)), np.ones((70, 70))),
        BinaryAffinity.of(torch.from_numpy(scene(10, 12, 0).reshape(n, -1)), 0.2, EPS).dense() > 0.5,
        np.ones((n, n)),
    ]
    assert n > SMALL
    edges = torch.from_numpy(np.stack(graphs).astype(np.float32))
    batch = BinaryBatch._of(edges, EPS, torch.ones(4, n))
    found = solve_batch(batch, 1, generators(4))
    assert [spectrum.multiple for spectrum in found] == [True, False, False, True]
    for i, spectrum in enumerate(found):
        expected = solve(batch.one(i), 1, np.random.default_rng(i))
        np.testing.assert_allclose(spectrum.values, expected.values, atol=2e-2)
        assert spectrum.values[0] == pytest.approx(expected.values[0], abs=1e-6)


SHAPES = [(9, 12), (14, 7), (9, 12), (1, 1), (14, 7), (9, 12)]


@pytest.fixture
def features(tmp_path: Path) -> Path:
    path = tmp_path / "features.zarr"
    with RaggedWriter(path, "features", depth=64, dtype="float32") as out:
        for i, shape in enumerate(SHAPES):
            out.append(f"im/{i}", scene(*shape, i))
    return path


@pytest.mark.parametrize("method", ["ncut", "maskcut"])
def test_a_store_is_cut_together_by_its_places(
    method: str, features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.run(features, {"method": method}, tmp_path / "alone.zarr", 0, 1, "cpu")
    module, alone, store = registry.load("cut", method), Ragged(tmp_path / "alone.zarr"), Ragged(features)
    for most in (1, 2, 64):
        monkeypatch.setattr("maskmill.cut._together.MOST", most)
        found = cut_together(module, module.Params(), store, 0, "cpu")
        assert len(found) == len(SHAPES)
        for i, (mask, diagnostics) in found.items():
            np.testing.assert_array_equal(mask, alone[i])
            assert diagnostics["outcome"] == alone.per_image("outcome")[i]


def test_a_batch_too_large_for_the_device_is_halved(features: Path) -> None:
    sizes = []

    class Small:
        @staticmethod
        def cut_batch(tokens: np.ndarray, *rest: Any) -> list[Any]:
            sizes.append(len(tokens))
            if len(tokens) > 1:
                raise torch.OutOfMemoryError
            return ncut.cut_batch(tokens, *rest)

    found = cut_together(Small, ncut.Params(), Ragged(features), 0, "cpu")  # type: ignore[arg-type]
    assert len(found) == len(SHAPES)
    assert max(sizes) == 3

    class Tiny:
        @staticmethod
        def cut_batch(*_: Any) -> list[Any]:
            raise torch.OutOfMemoryError

    with pytest.raises(DeviceError, match=r"im/0: out of GPU memory with 9x12 tokens; use --device cpu"):
        cut_together(Tiny, ncut.Params(), Ragged(features), 0, "cpu")  # type: ignore[arg-type]


def test_a_broken_image_of_a_batch_is_named() -> None:
    tokens = images(3)
    tokens[1, 2, 3, 4] = np.nan
    with pytest.raises(NumericsError, match="b: 1 of 238 tokens"):
        ncut.cut_batch(tokens, ncut.Params(), 0, ["a", "b", "c"], "cpu")


def test_a_device_that_is_not_there(features: Path, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(DeviceError, match="no CUDA device"):
        stage.run(features, {"method": "ncut"}, tmp_path / "cut.zarr", 0, 1, "cuda")
    assert not (tmp_path / "cut.zarr").exists()


@pytest.mark.gpu
@pytest.mark.parametrize("method", ["ncut", "maskcut", "lost"])
def test_the_stage_on_a_gpu_is_the_stage_on_the_cpu(method: str, features: Path, tmp_path: Path) -> None:
    need("cuda")
    for device in ("cpu", "cuda"):
        stage.run(features, {"method": method}, tmp_path / f"{device}.zarr", 0, 1, device)
    one, two = (Ragged(tmp_path / f"{device}.zarr") for device in ("cpu", "cuda"))
    np.testing.assert_array_equal(one.values[...], two.values[...])
    np.testing.assert_allclose(one.per_image("confidence"), two.per_image("confidence"), atol=2e-2)

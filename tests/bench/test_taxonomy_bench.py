"""bench/taxonomy.py: the score is that of a loop, and the masses of classes lie where the tokens are."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from maskmill.images.interpolate import resize_maps

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module."""
    monkeypatch.syspath_prepend(str(BENCH))
    spec = importlib.util.spec_from_file_location("bench_taxonomy", BENCH / "taxonomy.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "bench_taxonomy", module)
    spec.loader.exec_module(module)
    return module


def test_the_score_is_that_of_a_loop(bench: ModuleType) -> None:
    draws = np.random.default_rng(0)
    grids = np.array([[2, 3], [3, 2]])
    labels = [draws.choice([0, 1, 2, 255], (20, 30)).astype(np.uint8), draws.choice([0, 1], (25, 15)).astype(np.uint8)]
    known = bench.Tokens(["a", "b"], range(4), labels, np.zeros((12, 1), np.float16), grids, np.zeros((12, 4)))
    chances = draws.random((12, 4)).astype(np.float32)
    hits, union, right, pixels = np.zeros(4), np.zeros(4), 0, 0
    for label, rows, (h, w) in zip(labels, (chances[:6], chances[6:]), grids, strict=True):
        best = resize_maps(np.moveaxis(rows.reshape(h, w, 4), 2, 0), label.shape).argmax(axis=0)
        for predicted, true in zip(best.ravel().tolist(), label.ravel().tolist(), strict=True):
            if true == 255:
                continue
            pixels, right = pixels + 1, right + (predicted == true)
            for c in range(4):
                hits[c] += predicted == true == c
                union[c] += c in (predicted, true)
    miou = 100 * np.mean(hits[:3] / union[:3])  # the fourth class does not occur
    np.testing.assert_allclose(bench.scored(known, [0, 1], chances), (miou, 100 * right / pixels))


def test_rows_of_images(bench: ModuleType) -> None:
    known = bench.Tokens([], [], [], np.zeros((0, 1)), np.array([[2, 3], [1, 2], [2, 2]]), np.zeros((0, 1)))
    assert known.rows([2, 0]).tolist() == [8, 9, 10, 11, 0, 1, 2, 3, 4, 5]


def test_a_draw_is_the_same_for_all_methods(bench: ModuleType) -> None:
    assert bench.drawn(range(50), 3, 1) == bench.drawn(range(50), 3, 1) != bench.drawn(range(50), 3, 2)
    assert bench.drawn(range(50), 10, 0) == sorted(bench.drawn(range(50), 10, 0))

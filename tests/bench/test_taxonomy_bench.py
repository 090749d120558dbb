"""bench/taxonomy.py: scores, draws, and names that are mixed."""

from __future__ import annotations

from types import ModuleType

import bench_module
import numpy as np
import pytest

from maskmill.images.interpolate import resize_maps
from maskmill.taxonomy import _votes


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module."""
    return bench_module.load("taxonomy", monkeypatch)


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


def test_clusters_without_names_are_matched_one_to_one(bench: ModuleType) -> None:
    counts = np.array([[0, 5, 1], [8, 0, 2]])  # class 0 is cluster 1, class 1 is cluster 0; cluster 2 has no class
    miou, accuracy = bench.matched(counts)
    np.testing.assert_allclose([miou, accuracy], [100 * (5 / 6 + 8 / 10) / 2, 100 * 13 / 16])


def test_images_are_drawn_by_class(bench: ModuleType) -> None:
    labels = [np.full((20, 20), i % 3, np.uint8) for i in range(12)]
    labels[1][:] = 0
    labels[1][0, :3] = 1  # less than a hundredth of the image
    known = bench.Tokens([str(i) for i in range(12)], range(3), labels, np.zeros((0, 1)), np.ones((12, 2)), np.zeros(0))
    images = [0, 1, 2, 4, 5, 7, 8]
    found = bench.of_each_class(known, images, 2, 0)
    assert found == bench.of_each_class(known, images, 2, 0)
    assert {4, 7} < set(found) <= {2, 4, 5, 7, 8}
    assert len(found) == 4


def test_mixed_names_are_those_of_the_votes(bench: ModuleType) -> None:
    draws = np.random.default_rng(0)
    book = bench.Codebook(draws.normal(size=(20, 5)).astype(np.float32), np.ones(20, np.int64), 0.0, True)
    x, shares = draws.normal(size=(30, 5)).astype(np.float32), draws.random((20, 3)).astype(np.float32)
    np.testing.assert_allclose(bench.mixture(x, book) @ shares, _votes.score(x, book, shares), rtol=1e-5)

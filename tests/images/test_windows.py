"""The grid of windows and their cores, over many sizes."""

from __future__ import annotations

import numpy as np
import pytest

from maskmill.errors import StoreError
from maskmill.images.view import View
from maskmill.images.windows import core, core_in_whole, cuts, grid, keep_core, starts

RNG = np.random.default_rng(7)
CASES = [
    (int(h), int(w), int(size), int(overlap))
    for h, w, size, share in zip(
        RNG.integers(1, 120, 400), RNG.integers(1, 120, 400), RNG.integers(2, 60, 400), RNG.random(400), strict=True
    )
    for overlap in [int(share * size)]
]
EDGES = [(10, 10, 10, 0), (11, 10, 10, 9), (10, 30, 10, 5), (100, 7, 10, 3), (31, 31, 10, 0), (5, 5, 100, 99)]


def views(height: int, width: int, size: int, overlap: int) -> list[View]:
    boxes = grid((height, width), size, overlap)
    return [View(window=box, whole=(height, width), overlap=overlap) for box in boxes]


@pytest.mark.parametrize("case", CASES + EDGES)
def test_cores_tile_the_image(case: tuple[int, int, int, int]) -> None:
    height, width, size, _overlap = case
    count = np.zeros((height, width), int)
    for view in views(*case):
        top, left, h, w = view.window or ()
        assert (h, w) == (min(size, height), min(size, width))
        assert 0 <= top <= height - h
        assert 0 <= left <= width - w
        inner_top, inner_left, inner_h, inner_w = core(view)
        assert inner_h > 0
        assert inner_w > 0
        assert inner_top >= 0
        assert inner_top + inner_h <= h
        assert inner_left >= 0
        assert inner_left + inner_w <= w
        y, x, ch, cw = core_in_whole(view)
        count[y : y + ch, x : x + cw] += 1
    assert (count == 1).all()


@pytest.mark.parametrize("case", CASES[:60] + EDGES)
def test_the_core_of_a_window_is_what_no_centre_is_nearer_to(case: tuple[int, int, int, int]) -> None:
    height, _, size, overlap = case
    centres = np.array([start + min(size, height) / 2 for start in starts(height, size, overlap)])
    nearest = np.abs((np.arange(height) + 0.5)[:, None] - centres).min(axis=1)
    for view in views(height, 1, size, overlap):
        y, _, h, _ = core_in_whole(view)
        own = np.abs(np.arange(y, y + h) + 0.5 - (view.window[0] + view.window[2] / 2))
        assert (own <= nearest[y : y + h] + 1).all()  # an odd overlap has no middle between two pixels


@pytest.mark.parametrize("case", CASES[:60] + EDGES)
def test_seams_are_where_cores_meet(case: tuple[int, int, int, int]) -> None:
    height, _width, size, overlap = case
    begins = sorted({core_in_whole(view)[0] for view in views(*case)})
    assert begins[1:] == cuts(height, size, overlap)


def test_windows_overlap_by_what_was_asked_but_for_the_last() -> None:
    assert starts(100, 40, 10) == [0, 30, 60]
    assert starts(101, 40, 10) == [0, 30, 60, 61]
    assert starts(40, 40, 10) == [0]


def test_what_is_outside_of_the_core_is_ignored_once_for_every_pixel() -> None:
    parent = RNG.integers(0, 9, (75, 50))
    seen = np.zeros(parent.shape, int)
    total = np.zeros(9, int)
    for view in views(75, 50, 32, 9):
        top, left, h, w = view.window or ()
        kept = keep_core(parent[top : top + h, left : left + w], view.text(), -1)
        seen[top : top + h, left : left + w] += kept >= 0
        total += np.bincount(kept[kept >= 0], minlength=9)
    assert (seen == 1).all()
    assert total.tolist() == np.bincount(parent.ravel(), minlength=9).tolist()


def test_a_photo_is_all_core() -> None:
    ids = np.arange(6).reshape(2, 3)
    assert keep_core(ids, None, 255) is ids
    assert keep_core(ids, View(page=2).text(), 255) is ids


@pytest.mark.parametrize(
    "view",
    [
        View(),
        View(window=(0, 0, 10, 10)),
        View(window=(3, 0, 10, 10), whole=(30, 10)),
        View(window=(25, 0, 10, 10), whole=(30, 10)),
    ],
)
def test_a_window_that_is_not_of_the_grid_is_refused(view: View) -> None:
    with pytest.raises(StoreError, match="run snakemake again"):
        core(view)

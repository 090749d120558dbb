"""Crops that must overlap: against a count of pixels, and where no draw can be right."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskmill.images.crops import Box
from maskmill.pretrain import _overlap
from maskmill.pretrain._overlap import TRIALS, area, meet, overlapping_boxes

GLOBAL, LOCAL = (0.25, 1.0), (0.05, 0.25)


def pixels(box: Box, side: int = 400) -> np.ndarray:
    """The pixels of a photo whose centres lie in a box, bool [side, side]."""
    centres = (np.arange(side) + 0.5) / side
    y0, y1, x0, x1 = box
    return np.outer((centres >= y0) & (centres < y1), (centres >= x0) & (centres < x1))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.sampled_from([(300, 400), (500, 375), (100, 900), (64, 64)]))
def test_every_crop_meets_every_global_crop(seed: int, size: tuple[int, int]) -> None:
    boxes = overlapping_boxes(size, [GLOBAL] * 2 + [LOCAL] * 4, 2, 0.01, np.random.default_rng(seed))
    assert boxes.shape == (6, 4)
    assert boxes.min() >= 0
    assert boxes.max() <= 1
    masks = [pixels(tuple(box)) for box in boxes]
    assert (masks[0] & masks[1]).mean() > 0.02 - 0.005  # up to half a pixel a side
    assert min((local & whole).mean() for local in masks[2:] for whole in masks[:2]) > 0.01 - 0.005


def test_crops_are_those_of_independent_draws_that_overlap_enough() -> None:
    """The first crop is free; of the second, the draws that meet the first too little are missing, and no others."""
    size, found, free = (200, 300), [], []
    for seed in range(300):
        boxes = overlapping_boxes(size, [LOCAL] * 2, 2, 0.02, np.random.default_rng(seed))
        assert area(meet(tuple(boxes[0]), tuple(boxes[1]))) > 0.04
        found.append(area(tuple(boxes[1])))
        generator = np.random.default_rng(seed)
        first = _overlap.draw_box(*size, LOCAL, generator)
        assert tuple(boxes[0]) == first
        second = first
        for _ in range(TRIALS):  # the draws that follow, one by one
            second = _overlap.draw_box(*size, LOCAL, generator)
            if (pixels(second, 1000) & pixels(first, 1000)).mean() > 0.04:
                break
        free.append(area(second))
    assert np.isclose(found, free).mean() > 0.97  # the others: a pixel makes the difference


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(0, 1), min_size=8, max_size=8))
def test_intersections_are_those_of_the_pixels(edges: list[float]) -> None:
    y0, y1, y2, y3, x0, x1, x2, x3 = edges
    one: Box = (min(y0, y1), max(y0, y1), min(x0, x1), max(x0, x1))
    other: Box = (min(y2, y3), max(y2, y3), min(x2, x3), max(x2, x3))
    counted = (pixels(one) & pixels(other)).mean()
    assert area(meet(one, other)) == pytest.approx(counted, abs=0.006)


def test_without_luck_the_crops_still_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Box] = []

    def corners(_height: int, _width: int, scale: tuple[float, float], _generator: object) -> Box:
        places = {0.5: (0.0, 0.5, 0.0, 0.5), 0.6: (0.4, 1.0, 0.25, 1.0), 0.1: (0.9, 1.0, 0.9, 1.0)}
        drawn.append(places[scale[0]])
        return drawn[-1]

    monkeypatch.setattr(_overlap, "draw_box", corners)
    generator = np.random.default_rng(0)
    boxes = overlapping_boxes((9, 9), [(0.5, 1), (0.6, 1), (0.1, 1)], 2, 0.01, generator)
    assert len(drawn) == 2 + TRIALS
    np.testing.assert_allclose(boxes[2], (0.4, 0.5, 0.25, 0.5))
    apart = overlapping_boxes((9, 9), [(0.5, 1), (0.1, 1)], 2, 0.01, generator)
    np.testing.assert_allclose(apart[1], apart[0])

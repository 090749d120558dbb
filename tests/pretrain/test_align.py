"""Boxes of crops in each other's coordinates, and RoIAlign against an independent loop."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from maskmill.pretrain._align import overlap, roi_align, within


def bilinear(plane: np.ndarray, y: float, x: float) -> float:
    """The value of a map at a point, as RoIAlign reads it: nothing beyond a pixel outside, the border within it."""
    h, w = plane.shape
    if not (-1 <= y <= h and -1 <= x <= w):
        return 0.0
    y, x = max(y, 0.0), max(x, 0.0)
    top, left = min(int(y), h - 1), min(int(x), w - 1)
    bottom, right = min(top + 1, h - 1), min(left + 1, w - 1)
    y, x = (float(h - 1) if top == h - 1 else y), (float(w - 1) if left == w - 1 else x)
    dy, dx = y - top, x - left
    upper = plane[top, left] * (1 - dx) + plane[top, right] * dx
    return float(upper * (1 - dy) + (plane[bottom, left] * (1 - dx) + plane[bottom, right] * dx) * dy)


def by_loop(plane: np.ndarray, box: tuple[float, ...], size: int, aligned: bool, samples: int) -> np.ndarray:
    h, w = plane.shape
    offset = 0.5 if aligned else 0.0
    y0, y1, x0, x1 = box[0] * h - offset, box[1] * h - offset, box[2] * w - offset, box[3] * w - offset
    tall, wide = y1 - y0, x1 - x0
    if not aligned:
        tall, wide = max(tall, 1.0), max(wide, 1.0)
    counts = [samples or max(1, math.ceil(side / size - 1e-12)) for side in (tall, wide)]
    out = np.zeros((size, size))
    for a in range(size):
        for b in range(size):
            total = 0.0
            for i in range(counts[0]):
                for j in range(counts[1]):
                    y = y0 + tall / size * (a + (i + 0.5) / counts[0])
                    x = x0 + wide / size * (b + (j + 0.5) / counts[1])
                    total += bilinear(plane, y, x)
            out[a, b] = total / (counts[0] * counts[1])
    return out


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("samples", [0, 2])
def test_roi_align_is_the_mean_over_points_of_each_cell(aligned: bool, samples: int) -> None:
    draws = np.random.default_rng(0)
    maps = draws.standard_normal((6, 2, 9, 13))
    low = draws.uniform(0, 0.6, (6, 2))
    boxes = np.stack([low[:, 0], low[:, 0] + draws.uniform(0.05, 0.4, 6), low[:, 1], low[:, 1] + 0.35], 1)
    boxes[0] = 0, 1, 0, 1
    found = roi_align(torch.tensor(maps), torch.tensor(boxes), 4, aligned=aligned, samples=samples).numpy()
    for n in range(6):
        for c in range(2):
            wanted = by_loop(maps[n, c], tuple(boxes[n]), 4, aligned, samples)
            np.testing.assert_allclose(found[n, c], wanted, atol=2e-6)


def test_the_whole_map_at_its_own_size_is_the_map() -> None:
    maps = torch.randn(1, 3, 7, 7)
    assert torch.allclose(roi_align(maps, torch.tensor([[0.0, 1, 0, 1]]), 7), maps, atol=1e-6)


def test_gradients_reach_the_maps() -> None:
    maps = torch.randn(2, 1, 5, 5, dtype=torch.float64, requires_grad=True)
    boxes = torch.tensor([[0.1, 0.7, 0.2, 0.9], [0.0, 0.5, 0.0, 0.5]])
    assert torch.autograd.gradcheck(lambda x: roi_align(x, boxes, 3), (maps,), atol=1e-5)


def test_a_place_is_the_same_in_two_crops_also_mirrored() -> None:
    crops = torch.tensor([[0.0, 0.5, 0.2, 0.8], [0.25, 1.0, 0.0, 0.6]])
    both = overlap(crops[:1], crops[1:])
    assert torch.allclose(both, torch.tensor([[0.25, 0.5, 0.2, 0.6]]))
    assert torch.allclose(within(both, crops[:1]), torch.tensor([[0.5, 1.0, 0.0, 2 / 3]]))
    mirrored = within(both, crops[:1], torch.tensor([True]))
    assert torch.allclose(mirrored, torch.tensor([[0.5, 1.0, 1 / 3, 1.0]]))


def test_apart_crops_have_an_empty_overlap() -> None:
    found = overlap(torch.tensor([[0.0, 0.3, 0.0, 1.0]]), torch.tensor([[0.5, 1.0, 0.0, 1.0]]))
    assert found[0, 1] < found[0, 0]

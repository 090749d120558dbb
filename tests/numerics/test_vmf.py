"""Spherical k-means from a grid: the squares it starts from, places, iterations by their definition."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from maskmill.numerics import vmf


def picture(h: int = 12, w: int = 15, d: int = 4) -> torch.Tensor:
    return functional.normalize(torch.randn(h, w, d, generator=torch.Generator().manual_seed(0)), dim=2)


def naive(pixels: np.ndarray, labels: np.ndarray, iterations: int) -> np.ndarray:
    h, w, _ = pixels.shape
    y, x = np.mgrid[:h, :w]
    rows = np.concatenate([pixels, y[..., None] / (h - 1) - 0.5, x[..., None] / (w - 1) - 0.5], 2).reshape(h * w, -1)
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    labels = labels.ravel().copy()
    for _ in range(iterations):
        centres = {c: rows[labels == c].sum(0) for c in np.unique(labels)}
        names = list(centres)
        unit = np.stack([centres[c] / np.linalg.norm(centres[c]) for c in names])
        labels = np.array(names)[(rows @ unit.T).argmax(1)]
    return labels.reshape(h, w)


def test_the_grid_has_squares_of_about_one_size() -> None:
    labels = vmf.grid_labels(10, 10, 5)
    assert len(labels.unique()) == 25
    assert torch.bincount(labels.flatten()).max() <= 9
    assert labels[0, 0] == 0
    assert labels[-1, 0] == 4
    assert labels[0, -1] == 20


def test_iterations_are_those_of_the_definition() -> None:
    pixels = picture()
    for iterations in (1, 4):
        found = vmf.segments(pixels, 3, iterations)
        expected = naive(pixels.double().numpy(), vmf.grid_labels(12, 15, 3).numpy(), iterations)
        pairs = np.unique(np.stack([found.numpy().ravel(), expected.ravel()]), axis=1)
        assert pairs.shape[1] == len(np.unique(expected)) == int(found.max()) + 1


def test_two_kinds_of_pixels_are_kept_apart() -> None:
    pixels = torch.zeros(8, 8, 2)
    pixels[:, :4, 0] = pixels[:, 4:, 1] = 1
    found = vmf.segments(pixels, 2, 10)
    assert not set(found[:, :4].flatten().tolist()) & set(found[:, 4:].flatten().tolist())


def test_a_grid_of_more_squares_than_pixels() -> None:
    assert len(vmf.segments(picture(2, 3), 5, 3).unique()) <= 6

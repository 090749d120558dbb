"""FreeSOLO's losses: extent and mean of masks in x and y, agreement of neighbours of one colour, focal objects."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from maskmill.rounds._instance_photos import NEITHER

DILATION = 2  # cells to the neighbours that are compared
STEPS = tuple((y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if y or x)
EPS = 1e-5
XYZ = np.array(
    [0.412453, 0.357580, 0.180423, 0.212671, 0.715160, 0.072169, 0.019334, 0.119193, 0.950227]
)  # of linear sRGB
WHITE = np.array([0.95047, 1.0, 1.08883])  # of D65, 2 degrees


def lab_of(rgb: np.ndarray) -> np.ndarray:
    """CIELAB [h, w, 3] float64 of sRGB uint8 [h, w, 3] (D65): lightness 0..100, a and b."""
    value = rgb / 255.0
    linear = np.where(value > 0.04045, ((value + 0.055) / 1.055) ** 2.4, value / 12.92)
    ratio = linear @ XYZ.reshape(3, 3).T / WHITE
    f = np.where(ratio > 0.008856, np.cbrt(ratio), 7.787 * ratio + 16 / 116)
    x, y, z = np.moveaxis(f, 2, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=2)


def alike_neighbours(rgb: np.ndarray, known: np.ndarray, least: float) -> np.ndarray:
    """Which of its eight neighbours two cells away each cell resembles, bool [8, h, w] (BoxInst).

    The similarity exp(-|difference in Lab| / 2) is at least `least`. No neighbour lies beyond the border or where
    `known` [h, w] is false.
    """
    h, w, _ = rgb.shape
    lab, found = lab_of(rgb), np.zeros((len(STEPS), h, w), bool)
    for i, (dy, dx) in enumerate(STEPS):
        here, there = zip(*(_overlap(side, step * DILATION) for side, step in ((h, dy), (w, dx))), strict=True)
        difference = np.linalg.norm(lab[here] - lab[there], axis=2)
        found[(i, *here)] = (np.exp(-0.5 * difference) >= least) & known[there] & known[here]
    return found


def _overlap(side: int, step: int) -> tuple[slice, slice]:
    """Cells of an axis that have a neighbour `step` cells on, and these neighbours."""
    kept = max(0, side - abs(step))
    first = min(max(0, -step), side)
    return slice(first, first + kept), slice(first + step, first + step + kept) if kept else slice(0, 0)


def dice(found: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Dice loss [m] of [m, n]: 1 - 2 <a, b> / (|a|^2 + |b|^2)."""
    return 1 - 2 * (found * wanted).sum(1) / ((found * found).sum(1) + (wanted * wanted).sum(1) + EPS)


def extent_loss(p: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Dice of the maxima of every column and of every row, added, [m], of p [m, h, w] and masks [m, h, w] 0/1."""
    return dice(p.amax(1), masks.amax(1)) + dice(p.amax(2), masks.amax(2))


def mean_loss(p: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Dice of the means of every column and of every row, added, [m]."""
    return dice(p.mean(1), masks.mean(1)) + dice(p.mean(2), masks.mean(2))


def pair_terms(logits: torch.Tensor) -> torch.Tensor:
    """-log of the probability that a cell and its neighbour are both in or both out, [m, 8, h, w].

    Logits [m, h, w] wrap around at the border: no weight may be there.
    """
    own = nn.functional.softplus(logits)
    parts = []
    for dy, dx in STEPS:
        other = torch.roll(logits, (-dy * DILATION, -dx * DILATION), (1, 2))
        parts.append(own + nn.functional.softplus(other) - nn.functional.softplus(logits + other))
    return torch.stack(parts, dim=1)


def pair_loss(logits: torch.Tensor, masks: torch.Tensor, alike: torch.Tensor) -> torch.Tensor:
    """Mean of the terms of alike neighbours, from cells within each mask's box, [m]; 0 where there is none.

    Args:
        logits, masks: [m, h, w]. alike: bool [8, h, w].
    """
    box = masks.amax(1, keepdim=True) * masks.amax(2, keepdim=True)
    weight = box[:, None] * alike
    return (pair_terms(logits) * weight).sum((1, 2, 3)) / weight.sum((1, 2, 3)).clamp_min(1)


def focal_of(logits: torch.Tensor, target: torch.Tensor, alpha: float, gamma: float) -> torch.Tensor:
    """Sigmoid focal loss [L] of logits [L, k], added over classes, for classes [L] in 0..k, 0 is none of them."""
    one = (target[:, None] == torch.arange(1, logits.shape[1] + 1, device=target.device)).to(logits.dtype)
    cross = nn.functional.binary_cross_entropy_with_logits(logits, one, reduction="none")
    p = torch.sigmoid(logits)
    wrong = p + one - 2 * p * one
    weight = alpha * one + (1 - alpha) * (1 - one)
    known = (target != NEITHER)[:, None]
    return (weight * wrong**gamma * cross * known).sum(1)

"""Class scores on a coarse grid, fitted to the photo: what paint does to clusters and rounds to a student's logits."""

from __future__ import annotations

import numpy as np

from maskmill.config import Refine
from maskmill.interpolate import majority, resize_maps
from maskmill.refine import refine

FINE = 8  # cells a token side to refine on (docs/refine.md)


def refine_step(upsample: int) -> int:
    """Fine cells a side of a mask cell, for masks of `upsample` cells a token side."""
    return -(-FINE // upsample)


def refine_scores(
    maps: np.ndarray, best: np.ndarray, photo: np.ndarray, settings: Refine, void: np.ndarray | None = None
) -> np.ndarray:
    """Classes [H, W] of score maps [k, h, w] fitted to the photo [H * step, W * step, 3].

    `best` [H, W] is their winner before; classes that win nowhere do not take part, nor do `void` cells [H, W].
    """
    if void is not None and void.all():
        return best
    winners = np.unique(best if void is None else best[~void])
    step = photo.shape[0] // best.shape[0]
    fine_void = None if void is None else void.repeat(step, axis=0).repeat(step, axis=1)
    found = refine(resize_maps(maps[winners], photo.shape[:2]), photo, settings, fine_void)
    return np.asarray(winners[majority(found, photo.shape[0] // best.shape[0])])

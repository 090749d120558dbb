"""What the methods share whose codes are masks: the share of each token in each of k parts of its own image.

Channel j of two images has nothing in common, so the TRAITS of such a method have `per_image=True`: its codes are cut
(`cut: {features: codes, method: argmax}`) and not clustered.
"""

from __future__ import annotations

import numpy as np
import torch

from maskmill.adapt._data import TokenImages, order, stack
from maskmill.adapt._modules import usage

MICRO = 8  # images of a micro-batch: fixed, so that no sum depends on the threads
MONITORS = ("parts", "share", "entropy", "used", "largest")


def batch(images: TokenImages, side: int | None, size: int, step: int, seed: int) -> list[tuple[np.ndarray, ...]]:
    """Micro-batches of tokens [n, d, side, side] of a step; side None: the grid of the first image."""
    grids = [images[i] for i in order(step, size, len(images), seed)]
    x = stack(grids, None if side is None else (side, side))
    return [(x[start : start + MICRO],) for start in range(0, len(x), MICRO)]


def mask_monitors(masks: torch.Tensor) -> dict[str, torch.Tensor]:
    """Monitors of masks [n, k, h, w] >= 0: mean number of parts that win a token of an image, mean share of the winner.

    And `usage`: whether the same part wins in all images.
    """
    masks = masks.detach().float()
    winner = masks.argmax(1).flatten(1)  # [n, h * w]
    won = torch.zeros(masks.shape[:2], device=masks.device).scatter_(1, winner, 1.0)
    share = masks.amax(1) / masks.sum(1).clamp_min(1e-12)
    return {"parts": won.sum(1).mean(), "share": share.mean()} | usage(masks)

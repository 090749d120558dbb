"""Mask conventions: 0 background, clusters from 1, the largest value of the type is ignore."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class MaskSet:
    """Which masks of a run: those of a recipe, a seed and a round (0: painted, later ones: predicted by a student)."""

    recipe: str
    seed: int
    round: int


def mask_dtype(clusters: int) -> np.dtype:
    """uint8 for up to 254 clusters, else uint16 (up to 65534)."""
    if clusters > 65534:
        raise ValueError(f"{clusters} clusters do not fit a 16-bit mask (at most 65534)")
    return np.dtype(np.uint8 if clusters <= 254 else np.uint16)


def ignore_value(dtype: np.dtype | type) -> int:
    """255 for uint8, 65535 for uint16."""
    return int(np.iinfo(dtype).max)


def to_size(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Nearest-neighbour lookup of mask [h, w] at the pixel centres of an image of (H, W); exact for any ratio."""
    h, w = mask.shape
    rows = ((np.arange(size[0]) + 0.5) * h / size[0]).astype(np.int64)
    columns = ((np.arange(size[1]) + 0.5) * w / size[1]).astype(np.int64)
    return mask[np.minimum(rows, h - 1)[:, None], np.minimum(columns, w - 1)[None]]

"""One connected object of a mask."""

from __future__ import annotations

import numpy as np


def one_object(mask: np.ndarray) -> np.ndarray:
    """The largest 4-connected component of a mask [H, W] with its holes filled; the first of equals, row by row."""
    from scipy.ndimage import binary_fill_holes, label

    mask = binary_fill_holes(mask)
    parts, count = label(mask)
    return mask if count < 2 else parts == 1 + np.bincount(parts.ravel())[1:].argmax()

"""The segments of a photo within a crop of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def crop_segments(segments: np.ndarray, box: Sequence[float], flip: bool, side: int) -> np.ndarray:
    """Segment ids int64 [side, side] at the centres of the pixels of a crop.

    Args:
        segments: int [h, w] over the whole photo, 0: none. box: (y0, y1, x0, x1) as shares of the photo. flip: the crop
            is mirrored after it was cut.
    """
    y0, y1, x0, x1 = box
    at = (np.arange(side) + 0.5) / side
    rows = ((y0 + at * (y1 - y0)) * segments.shape[0]).astype(np.int64).clip(0, segments.shape[0] - 1)
    columns = ((x0 + at * (x1 - x0)) * segments.shape[1]).astype(np.int64).clip(0, segments.shape[1] - 1)
    found = segments[rows[:, None], columns[None]].astype(np.int64)
    return np.ascontiguousarray(found[:, ::-1]) if flip else found

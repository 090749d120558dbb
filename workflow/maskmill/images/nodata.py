"""Pixels and cells that a file says it has no data for: filled, counted, and kept apart from what is known.

A picture without nodata has no mask at all (None), here and wherever one is passed on.
"""

from __future__ import annotations

import numpy as np

from maskmill.images.interpolate import overlap
from maskmill.images.masks import ignore_value, to_size

NEUTRAL = (124, 116, 104)  # mean colour of ImageNet, for whoever looks at a photo without a backbone of its own
HALF = 0.5  # a cell is valid where at least this share of its pixels is
ROUNDING = 1e-6  # of that share


def filled(pixels: np.ndarray, valid: np.ndarray | None, colour: np.ndarray | tuple[int, ...] = NEUTRAL) -> np.ndarray:
    """Pixels uint8 [H, W, 3] with one colour where `valid` [H, W] is false; the same array where all are valid.

    Of pictures [H, W, N] of other than as many channels as the colour has, with its mean.
    """
    if valid is None:
        return pixels
    if len(colour) != pixels.shape[2]:
        colour = np.full(pixels.shape[2], np.mean(colour))
    return np.where(valid[..., None], pixels, np.asarray(colour, pixels.dtype))


def shares(valid: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Share of valid pixels in each cell of a grid (h, w) over the whole picture, float64 [h, w].

    Args:
        valid: bool [H, W], or shares of finer cells.
    """
    h, w = valid.shape
    if (h, w) == grid:
        return valid.astype(np.float64)
    rows, columns = overlap(h, grid[0]), overlap(w, grid[1])  # [H, h], [W, w]
    tall = np.empty((grid[0], w))
    for i, weights in enumerate(rows.T):  # row by row: a large picture is never held as floats
        near = np.flatnonzero(weights)
        part = slice(int(near[0]), int(near[-1]) + 1)
        tall[i] = weights[part] @ valid[part]
    return np.asarray(tall @ columns) * (grid[0] * grid[1] / (h * w))


def valid_cells(valid: np.ndarray | None, grid: tuple[int, int]) -> np.ndarray | None:
    """Which cells of a grid (h, w) are valid: at least half of their pixels are. None where all of them are.

    Args:
        valid: bool [H, W], or shares of finer cells; None where all pixels are valid.
    """
    if valid is None:
        return None
    found = shares(valid, grid) >= HALF - ROUNDING
    return None if found.all() else found


def at_grid(valid: np.ndarray | None, grid: tuple[int, int]) -> np.ndarray | None:
    """Valid cells [h, w] looked up at the centres of another grid's cells, as masks are; None where all are valid."""
    if valid is None or valid.shape == grid:
        return valid
    found = to_size(valid, grid)
    return None if found.all() else found


def nearest_valid(values: np.ndarray, valid: np.ndarray | None) -> np.ndarray:
    """Values [h, w, ...] where each invalid cell has those of the nearest valid one, so that nothing of it bleeds.

    Whatever interpolates or smooths over the grid then meets the edge of the data as it meets the edge of a picture.
    Without any valid cell they stay as they are.
    """
    if valid is None or valid.all() or not valid.any():
        return values
    from scipy.ndimage import distance_transform_edt

    rows, columns = distance_transform_edt(~valid, return_distances=False, return_indices=True)
    return values[rows, columns]


def ignored(mask: np.ndarray, valid: np.ndarray | None) -> np.ndarray:
    """A mask [h, w] with `ignore` where its cells are not valid."""
    if valid is None:
        return mask
    return np.where(valid, mask, mask.dtype.type(ignore_value(mask.dtype)))


def box(valid: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of the smallest box around the valid cells [h, w]; all of them where none is valid."""
    if not valid.any():
        return slice(None), slice(None)
    rows, columns = np.flatnonzero(valid.any(axis=1)), np.flatnonzero(valid.any(axis=0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)

"""One vector a segment: the mean of the tokens under it, weighted by the area that they share."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from maskmill.images.interpolate import overlap
from maskmill.recipe.base import Model
from maskmill.regions import Traits

TRAITS = Traits()


class Params(Model):
    """Parameters of mean pooling."""

    normalise: bool = Field(False, description="scale tokens to unit length before the mean: every token one vote")


def pool(tokens: np.ndarray, segments: np.ndarray, params: Params) -> tuple[np.ndarray, np.ndarray]:
    """Pool tokens over segments; both grids cover the whole image, and may differ.

    Args:
        tokens: [h, w, d] float.
        segments: [H, W] integer, 0 is no segment.

    Returns:
        vectors [r, d] float32 and the segment ids [r] int64, ascending.
    """
    ids = np.unique(segments)
    ids = ids[ids != 0].astype(np.int64)
    h, w, d = tokens.shape
    flat = tokens.reshape(h * w, d).astype(np.float64)
    if params.normalise:
        flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    weights = shared_area(segments, ids, (h, w)).reshape(len(ids), h * w)  # [r, h*w]
    vectors = weights @ flat / weights.sum(axis=1, keepdims=True)
    return vectors.astype(np.float32), ids


def shared_area(segments: np.ndarray, ids: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Area that each segment shares with each cell of `grid` [r, h, w] float64, in cells of the segments' grid."""
    masks = segments[None] == ids[:, None, None]  # [r, H, W]
    if segments.shape == grid:
        return masks.astype(np.float64)
    rows, columns = overlap(segments.shape[0], grid[0]), overlap(segments.shape[1], grid[1])  # [H, h], [W, w]
    return np.matmul(rows.T, masks.astype(np.float64)) @ columns

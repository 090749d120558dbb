"""A grid of rectangles: the floor that every other cut must beat, and the way to describe whole images."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from maskmill.cut import Need, Traits
from maskmill.recipe.base import Model

TRAITS = Traits()


class Params(Model):
    """Cells of the grid."""

    rows: int = Field(4, ge=1, le=15)
    columns: int = Field(4, ge=1, le=15)


def needs(params: Params) -> tuple[Need, ...]:
    """Nothing: the content of the image plays no part."""
    return ()


def regions_per_image(params: Params, code_length: int) -> int:
    """A segment a cell."""
    return params.rows * params.columns


def cut(tokens: np.ndarray, params: Params, seed: int, image_id: str) -> tuple[np.ndarray, dict[str, float]]:
    """Rectangles 1..rows*columns (uint8 [h, w]), row by row; an image smaller than the grid has fewer. Confidence 1."""
    h, w = tokens.shape[:2]
    row = np.arange(h) * min(params.rows, h) // h
    column = np.arange(w) * min(params.columns, w) // w
    segments = row[:, None] * min(params.columns, w) + column[None] + 1
    return segments.astype(np.uint8), {"confidence": 1.0}

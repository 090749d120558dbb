"""Reads what a cut method asks for besides the tokens of an image (`maskmill.cut.Need`)."""

from __future__ import annotations

from typing import Any

import numpy as np

from maskmill.backbones.attention import cls_queries
from maskmill.cut import Need
from maskmill.errors import NumericsError, StoreError
from maskmill.recipe import backbones
from maskmill.store.ragged import Ragged

EVERYWHERE = slice(None), slice(None)  # rows and columns of a whole grid


class Extras:
    """The keyword arguments of a method, image by image.

    Raises:
        StoreError: the feature set has no query of a cls token; no colour store, or one without an image of the
            tokens, or of another grid. Said before the first image is cut.
    """

    def __init__(self, needs: tuple[Need, ...], tokens: Ragged, colour: Ragged | None) -> None:
        self.needs, self.tokens, self.colour = needs, tokens, colour
        self.queries = cls_queries(tokens, "this cut") if "cls_query" in needs else None
        if "colour" in needs:
            _check_colour(tokens, colour)

    def of(self, i: int, within: tuple[slice, slice] = EVERYWHERE) -> dict[str, Any]:
        """Keyword arguments for image i of the tokens, or for the part of its grid that is cut."""
        given: dict[str, Any] = {}
        if "colour" in self.needs and self.colour is not None:
            given["colour"] = _finite(self.colour[self.tokens.ids[i]], self.tokens.ids[i])[within]
        if self.queries is not None:
            given["cls_query"] = self.queries[i]
        if "backbone" in self.needs:
            given["backbone"] = _behind(self.tokens)
        return given


def _behind(store: Ragged) -> str:
    """The backbone of a store, and how many more: what is known of one alone does not hold for several."""
    concat = store.provenance.get("params", {}).get("concat")
    return str(store.attrs.get("backbone", "")) + (f" and {len(concat)} more" if concat else "")


def _finite(colour: np.ndarray, image_id: str) -> np.ndarray:
    """The r, g, b of colour tokens [h, w, 5]."""
    if not np.isfinite(colour).all():
        raise NumericsError(f"{image_id}: its colours are NaN or infinite; delete its colour store and run again")
    return colour[..., :3].astype(np.float32)


def _check_colour(tokens: Ragged, colour: Ragged | None) -> None:
    if colour is None:
        raise StoreError(f"{tokens.path}: this cut also needs the colours (maskmill cut --colour); set cut.colour")
    if not backbones.of(_behind(colour)).colours:
        raise StoreError(f"{colour.path}: cut.colour: features of {_behind(colour)!r}, expected backbone: colour")
    for i, image_id in enumerate(tokens.ids):
        if image_id not in colour:
            raise StoreError(f"{colour.path}: no colours of {image_id!r}; delete it and run snakemake again")
        (h, w), (rows, columns) = tokens.grid[i], colour.grid[colour.index(image_id)]
        if (h, w) != (rows, columns):
            raise StoreError(
                f"{colour.path}: cut.colour: {image_id} has {rows}x{columns} cells and {h}x{w} tokens; give the "
                f"colour set the same size and stride: {tokens.attrs.get('stride')}"
            )

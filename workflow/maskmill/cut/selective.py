"""Selective search: a tree of regions that are candidates for objects, by colour, texture, size and fill.

Uijlings, van de Sande, Gevers, Smeulders, "Selective search for object recognition", IJCV 2013, section 3, in its
single strategy: one segmentation of the photo in HSV (Felzenszwalb and Huttenlocher, k = 100), whose parts are grouped
hierarchically, the most similar pair of neighbours first, by the sum of four similarities. DETReg (Bar et al., CVPR
2022) learns to propose these regions. Regions are ranked as in section 3.3: from the top of the hierarchy down,
stochastically, so that large regions are not always first. The defaults are the published k = 100, deviation 0.8 and
least size 100 in pixels, for tokens of 2 pixels a side: four pixels are a token.

The segments are the leaves of the tree; all of its nodes are proposals (`TRAITS.tree`). It needs no network.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import Field, field_validator

from maskmill.cut import Need, Traits
from maskmill.cut._grouping import SIMILARITIES, Similarity
from maskmill.errors import ConfigError
from maskmill.recipe.base import Model

TRAITS = Traits(tree=True, reads_colours=True)


class Params(Model):
    """Selective search."""

    scale: float = Field(
        25.0, ge=0, description="k of the first segmentation, for colours in 0..255 and sizes in tokens"
    )
    sigma: float = Field(0.4, ge=0, description="deviation of the blur beforehand, in tokens")
    smallest: int = Field(25, ge=1, description="tokens of the smallest part")
    segments: int = Field(
        254, ge=1, le=254, description="most parts; where there are more, the photo's `smallest` grows"
    )
    similarities: list[Similarity] = Field(
        default_factory=lambda: list(SIMILARITIES),
        description="what neighbours are compared by; the sum counts",
    )

    @field_validator("similarities")
    @classmethod
    def _once(cls, value: list[Similarity]) -> list[Similarity]:
        if not value or len(set(value)) < len(value):
            raise ValueError("expected one or more of colour, texture, size, fill, each once")
        return value


def needs(params: Params) -> tuple[Need, ...]:
    """Whether the tokens are colours."""
    return ("backbone",)


def regions_per_image(params: Params, code_length: int) -> int:
    """A segment a part."""
    return params.segments


def cut(
    tokens: np.ndarray, params: Params, seed: int, image_id: str, backbone: str = ""
) -> tuple[np.ndarray, dict[str, Any]]:
    """Parts 1..k (uint8 [h, w]) of a photo's colours, tokens [h, w, 5], and the tree above them.

    Diagnostics: confidence = share of the variance of the colours (HSV) that the parts explain. groups = k. parents,
    scores: float32 [2 * segments - 1], see `maskmill.cut.Method.cut`; a node at place i from the top of the hierarchy
    has the score 1 - u i / nodes, with u drawn from 0..1 for each. Of a photo of one colour there is no segment.

    Raises:
        NumericsError: a token is NaN or infinite. ConfigError: the tokens are no colours.
    """
    from scipy.ndimage import gaussian_filter

    from maskmill.cut._grouping import Regions, grouped, neighbours
    from maskmill.cut._partition import compact
    from maskmill.cut._superpixels import FLAT, LEVELS, explained, superpixels
    from maskmill.cut._tokens import flat_tokens
    from maskmill.images.tree import Tree, most_nodes
    from maskmill.numerics.sampling import rng
    from maskmill.recipe import backbones

    if not backbones.of(backbone).colours:
        raise ConfigError(
            f"cut.method: selective groups colours, but cut.features names a set of the backbone {backbone!r}; "
            "name one with backbone: colour"
        )
    h, w = tokens.shape[:2]
    rgb = flat_tokens(tokens, image_id)[:, :3].astype(np.float64).clip(0, 1)
    most = most_nodes(params.segments)
    if float(np.ptp(rgb, axis=0).max()) <= FLAT:
        empty = np.zeros(most, np.float32)
        return np.zeros((h, w), np.uint8), {"confidence": 0.0, "groups": 0.0, "parents": empty, "scores": empty}
    colours = hsv(rgb).reshape(h, w, 3)
    smooth = gaussian_filter(colours * LEVELS, (params.sigma, params.sigma, 0))
    parts = compact(superpixels(smooth, params)).reshape(h, w)
    parents = grouped(Regions.of(parts, colours), neighbours(parts), params.similarities)
    draws = rng(seed, image_id, "rank").random(len(parents))
    scores = np.zeros(most, np.float32)
    scores[: len(parents)] = 1 - draws * np.arange(len(parents), 0, -1) / len(parents)
    groups = int(parts.max()) + 1
    values = {"confidence": explained(colours.reshape(h * w, 3), parts.ravel()), "groups": float(groups)}
    return (parts + 1).astype(np.uint8), values | {"parents": Tree(parents, groups).padded(most), "scores": scores}


def hsv(rgb: np.ndarray) -> np.ndarray:
    """Hue, saturation and value in 0..1 of colours [n, 3] in 0..1; the hue of a grey is 0."""
    high, low = rgb.max(axis=1), rgb.min(axis=1)
    span = high - low
    told = np.where(span > 0, span, 1)
    r, g, b = rgb.T
    sector = np.select([high == r, high == g], [(g - b) / told % 6, (b - r) / told + 2], (r - g) / told + 4)
    hue = np.where(span > 0, sector / 6, 0)
    return np.stack([hue, span / np.where(high > 0, high, 1), high], axis=1)

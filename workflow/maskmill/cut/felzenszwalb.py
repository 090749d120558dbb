"""Graph-based segmentation: connected parts of a photo between which colours differ more than within them.

Felzenszwalb, Huttenlocher, "Efficient graph-based image segmentation", IJCV 2004, section 3. Tokens are joined with
their eight neighbours in the order of the differences, as long as a difference is at most the largest within either
part plus `scale` over its number of tokens (the paper's tau = k / |C|). Then parts of fewer than `smallest` tokens are
joined with the neighbour that differs least. An over-segmentation that needs no network: the recipe `segsort` learns
from it.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from maskmill.cut import Need, Traits
from maskmill.recipe.base import Model

TRAITS = Traits()


class Params(Model):
    """Graph-based segmentation."""

    scale: float = Field(
        300.0, ge=0, description="k of the paper, for colours in 0..255; more of it makes larger parts"
    )
    sigma: float = Field(0.8, ge=0, description="deviation of the blur beforehand, in tokens")
    smallest: int = Field(20, ge=1, description="tokens of the smallest part")
    segments: int = Field(
        254, ge=1, le=254, description="most parts; where there are more, the photo's `smallest` grows"
    )


def needs(params: Params) -> tuple[Need, ...]:
    """Whether the tokens are colours."""
    return ("backbone",)


def regions_per_image(params: Params, code_length: int) -> int:
    """A segment a part."""
    return params.segments


def cut(
    tokens: np.ndarray, params: Params, seed: int, image_id: str, backbone: str = ""
) -> tuple[np.ndarray, dict[str, float]]:
    """Connected parts 1..k (uint8 [h, w]) of tokens [h, w, d], numbered by their first token, row by row.

    Features are r, g, b of tokens of the backbone `colour`, else the tokens at length one; both times 255.

    Diagnostics: confidence = explained share of the variance of the features; groups = k. Where all features are the
    same there is no structure: segments all 0, confidence 0.

    Raises:
        NumericsError: a token is NaN or infinite.
    """
    from scipy.ndimage import gaussian_filter

    from maskmill.cut._partition import compact
    from maskmill.cut._superpixels import FLAT, LEVELS, explained, superpixels
    from maskmill.cut._tokens import flat_tokens
    from maskmill.recipe import backbones

    h, w = tokens.shape[:2]
    flat = flat_tokens(tokens, image_id).astype(np.float64)
    if backbones.of(backbone).colours:
        features = flat[:, :3] * LEVELS
    else:
        features = flat * (LEVELS / np.linalg.norm(flat, axis=1, keepdims=True).clip(1e-30))
    if float(np.ptp(features, axis=0).max()) <= FLAT * LEVELS:
        return np.zeros((h, w), np.uint8), {"confidence": 0.0, "groups": 0.0}
    smooth = gaussian_filter(features.reshape(h, w, -1), (params.sigma, params.sigma, 0))
    parts = compact(superpixels(smooth, params))
    return (parts + 1).reshape(h, w).astype(np.uint8), {
        "confidence": explained(features, parts),
        "groups": float(parts.max() + 1),
    }

"""Foreground as the cls token of a ViT sees it: the tokens that hold most of its attention.

Ziegler and Asano, Self-supervised learning of object parts for semantic segmentation (Leopart, 2022), section 3.3.
Alone such a mask is noisy, parts of objects are missing and clutter is in it; it is a vote about clusters of tokens.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from maskmill.backbones.attention import cls_logits, heaviest, softmax
from maskmill.errors import NumericsError
from maskmill.foreground import Traits
from maskmill.recipe.base import Model

TRAITS = Traits(reads_query=True)


class Params(Model):
    """Parameters of the attention mask; the defaults are those of Leopart's call for CBFE."""

    sigma: float = Field(
        0.6, ge=0, le=10, description="Gaussian over the attention, in tokens, cut off to 7x7; 0: none"
    )
    mass: float = Field(0.65, gt=0, lt=1, description="share of the attention that the foreground holds")
    least: int = Field(3, ge=1, description="connected parts of fewer tokens are dropped")


def mask(keys: np.ndarray, query: np.ndarray, params: Params) -> np.ndarray | None:
    """Foreground bool [h, w] of keys [h, w, heads * d_head] and the query [heads, d_head]; None: it looks nowhere.

    The attention is the mean over heads, each of which adds up to one over the patches. Tokens of equal attention enter
    in the order of the grid.

    Raises:
        NumericsError: a key or the query is NaN or infinite.
    """
    h, w, d = keys.shape
    logits = cls_logits(keys.reshape(h * w, d), query)  # [heads, n]
    if not np.isfinite(logits).all():
        raise NumericsError("its keys are NaN or infinite; delete its feature store and run snakemake again")
    return most(softmax(logits).mean(0).reshape(h, w), params)


def most(attention: np.ndarray, params: Params) -> np.ndarray | None:
    """The tokens of an attention [h, w] that hold `mass` of it once blurred, less small parts; None: it is even."""
    return heaviest(attention, params.mass, params.sigma, params.least)

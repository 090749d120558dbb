"""MaskDistill's object mask: where the cls token looks, grown over similar keys.

Van Gansbeke, Vandenhende, Van Gool, "Discovering object masks with transformers for unsupervised semantic
segmentation", 2022, section 3.1. Seed = the patch that the cls token attends to most; its friends among the attended
patches vote for every patch whose key points their way; the object is the connected component of the seed. The defaults
follow the published code, also where it does more than the paper says (`propose_products`). Not in either:
`scores: softmax`, the confidence, and no mask instead of one that covers the whole image.

The attention is computed from what the store holds, see maskmill.backbones.attention.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from pydantic import Field

from maskmill.backbones.attention import EVEN, cls_logits, softmax
from maskmill.cut import Need, Traits
from maskmill.recipe.base import Model

TRAITS = Traits(outcomes={"cut": 0, "one token": 1, "even attention": 2, "no object": 3})


class Params(Model):
    """Names of the paper where it has them."""

    scores: Literal["product", "softmax"] = Field(
        "product", description="a patch's rank: q . k as the published code, or the attention"
    )
    heads: int | None = Field(5, ge=1, description="only the first so many heads; null: all")
    mass: float = Field(
        0.5, gt=0, le=1, description="the patches that do not hold this share of all scores have the score 0; 1: none"
    )
    share: float = Field(0.4, gt=0, le=1, description="share of the patches that are proposed; softmax: at most")


def needs(params: Params) -> tuple[Need, ...]:
    """The query of the cls token."""
    return ("cls_query",)


def regions_per_image(params: Params, code_length: int) -> int:
    """One object."""
    return 1


def cut(
    tokens: np.ndarray, params: Params, seed: int, image_id: str, cls_query: np.ndarray
) -> tuple[np.ndarray, dict[str, Any]]:
    """The object's mask (0/1 uint8 [h, w]) of keys [h, w, heads * d_head] and the query [heads, d_head].

    Diagnostics:
        confidence: attention in the mask less the mask's share of the image, 0..1. scores [1]: the same.
        mass: attention in the mask. sources: patches that voted. outcome: see TRAITS; anything but 0 means: no mask,
            confidence 0.

    Raises:
        NumericsError: a token is NaN or infinite.
    """
    from scipy import ndimage

    from maskmill.cut._tokens import flat_tokens

    h, w = tokens.shape[:2]
    keys = flat_tokens(tokens, image_id)  # [n, d]
    logits = cls_logits(keys, cls_query)  # [heads, n]
    attention = softmax(logits).mean(0)
    chosen = logits[: params.heads]
    rank = (softmax(chosen) if params.scores == "softmax" else chosen).mean(0)
    if h * w < 2 or np.ptp(rank) <= EVEN * np.abs(rank).max():
        return _nothing(h, w, "one token" if h * w < 2 else "even attention")
    propose = propose_attended if params.scores == "softmax" else propose_products
    proposed = propose(rank, params.share, params.mass)
    source = proposed[keys[proposed] @ keys[proposed[0]] > 0]
    above = (keys @ keys[source].sum(0, dtype=np.float64) > 0).reshape(h, w)
    parts, _ = ndimage.label(above)
    mask = parts == parts.flat[proposed[0]] if above.flat[proposed[0]] else np.zeros((h, w), bool)
    if not mask.any() or mask.all():
        return _nothing(h, w, "no object")
    mass = float(attention[mask.ravel()].sum())
    confidence = max(0.0, mass - float(mask.mean()))
    found = {"confidence": confidence, "scores": np.array([confidence], np.float32), "mass": mass}
    return mask.astype(np.uint8), found | {"sources": float(len(source)), "outcome": 0.0}


def propose_products(rank: np.ndarray, share: float, mass: float) -> np.ndarray:
    """The `share` of the patches with the highest scores, best first, as the published code chooses them; rank [n].

    The scores are added up from the lowest one. A patch keeps its score where the sum has come to more than 1 - `mass`
    of the total; every other patch gets the score 0, and is proposed only after all positive scores, but before
    negative ones. Equal ones in the order of the grid (as a GPU's topk gathers them). Products q . k have no sign, so
    this says little where most of them are negative; with mass 1 the scores stay as they are.
    """
    score = rank.astype(np.float64)
    if mass < 1:
        ascending = np.argsort(score, kind="stable")
        with np.errstate(divide="ignore", invalid="ignore"):  # a total of 0: nothing is kept
            below = np.cumsum(score[ascending]) / score.sum()
        score[ascending[~(below > 1 - mass)]] = 0
    return np.argsort(-score, kind="stable")[: _most(share, len(rank))]


def propose_attended(rank: np.ndarray, share: float, mass: float) -> np.ndarray:
    """Patches, best first: as few as hold `mass` of the total of rank [n] >= 0, and at most `share` of all.

    Equal ones in the order of the grid. The best patch is always among them.
    """
    order = np.argsort(-rank, kind="stable")
    most = _most(share, len(rank))
    if mass < 1:
        held = np.cumsum(rank[order]) / rank.sum()
        most = min(most, int(np.searchsorted(held, mass)) + 1)
    return order[:most]


def _most(share: float, n: int) -> int:
    """How many patches `share` of n is: rounded down, at least one."""
    return max(1, int(share * n))


def _nothing(h: int, w: int, outcome: str) -> tuple[np.ndarray, dict[str, Any]]:
    values = {"confidence": 0.0, "scores": np.zeros(1, np.float32), "mass": 0.0, "sources": 0.0}
    return np.zeros((h, w), np.uint8), values | {"outcome": float(TRAITS.outcomes[outcome])}

"""K regions of an image by one normalised cut, without eigenvectors.

The objective is that of Zhang, Han, Lai, Sun, Zhang, Kording, "Falcon: fractional alternating cut with overcoming
minima in unsupervised segmentation", 2025: the discrete K-way Ncut, lowered by alternating closed-form updates of its
fractional quadratic transform, with a regularisation against poor minima. Neither its code nor more than its abstract
could be had: the form of the regularisation, the start that avoids poor minima and the single exchanges at the end are
our own, see `maskmill.cut._kway`. The affinity is DiffCut's (`maskmill.cut.recursive`).
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from pydantic import Field

from maskmill.cut import Need, Traits
from maskmill.recipe.base import Model

TRAITS = Traits(outcomes={"cut": 0, "one token": 1, "no structure": 2})


class Params(Model):
    """K and the affinity."""

    segments: int = Field(8, ge=2, le=254, description="K: groups an image (fewer where tokens are alike)")
    alpha: float = Field(10.0, gt=0, le=100, description="power of the cosines, scaled to 0..1 in each image")
    keep: Literal["all", "objects"] = Field(
        "all", description="objects: groups with a larger share of the border than of the image are 0"
    )


def needs(params: Params) -> tuple[Need, ...]:
    """Nothing but the tokens."""
    return ()


def regions_per_image(params: Params, code_length: int) -> int:
    """A segment a group."""
    return params.segments


def cut(tokens: np.ndarray, params: Params, seed: int, image_id: str) -> tuple[np.ndarray, dict[str, Any]]:
    """Groups 1..k (uint8 [h, w]) of tokens [h, w, d], numbered by their first token, row by row. Nothing is random.

    Diagnostics:
        confidence: 1 - Ncut / (groups - 1); scores float32 [segments]: the same of each segment; see _partition.
        ncut: the value reached, with all groups. groups: how many, the dropped ones included.
        steps: by which it was raised. outcome: see TRAITS; anything but 0 means segments all 0, confidence 0.

    Raises:
        NumericsError: a token is NaN or infinite.
    """
    import torch

    from maskmill.cut._kway import partition
    from maskmill.cut._partition import compact, group_scores, group_sums, ncut_confidence, padded, without_ground
    from maskmill.cut._tokens import flat_tokens
    from maskmill.cut._weighted import WeightedAffinity, scaled_cosines

    h, w = tokens.shape[:2]
    matrix = scaled_cosines(torch.from_numpy(flat_tokens(tokens, image_id)), params.alpha)
    if h * w < 2 or matrix is None:
        return _nothing(h, w, "one token" if h * w < 2 else "no structure", params)
    affinity = WeightedAffinity.of(matrix)
    found = partition(affinity, params.segments, (h, w))
    labels = compact(found.labels)
    groups = int(labels.max()) + 1
    degree, products = affinity.degree.double().numpy(), group_sums(affinity.matrix, labels, groups)
    scores = group_scores(products, degree, labels)
    segments, kept = without_ground(labels.reshape(h, w), params.keep == "objects")
    return segments, {
        "confidence": ncut_confidence(products, degree, labels), "scores": padded(scores[kept], params.segments),
        "ncut": groups - found.trace[-1], "groups": float(groups), "steps": float(len(found.trace)), "outcome": 0.0,
    }  # fmt: skip


def _nothing(h: int, w: int, outcome: str, params: Params) -> tuple[np.ndarray, dict[str, Any]]:
    scores = np.zeros(params.segments, np.float32)
    return np.zeros((h, w), np.uint8), {
        "confidence": 0.0, "scores": scores, "ncut": 0.0, "groups": 0.0, "steps": 0.0,
        "outcome": float(TRAITS.outcomes[outcome]),
    }  # fmt: skip

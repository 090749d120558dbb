"""PriMaPs: masks by principal components, one after the other, each of what the last ones left.

Hahn, Araslanov, Schaub-Meyer, Roth, "Boosting unsupervised semantic segmentation with principal mask proposals", TMLR
2024, section 3.1; see `maskmill.numerics.principal`. The published CRF is no part of a cut here.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from maskmill.cut import Need, Traits
from maskmill.numerics.principal import Settings, majority, masks_of, scaled, structured

TRAITS = Traits(outcomes={"cut": 0, "one token": 1, "no structure": 2})


class Params(Settings):
    """Names of the paper."""


def needs(params: Params) -> tuple[Need, ...]:
    """Nothing but the tokens."""
    return ()


def regions_per_image(params: Params, code_length: int) -> int:
    """A segment a mask."""
    return params.masks


def cut(tokens: np.ndarray, params: Params, seed: int, image_id: str) -> tuple[np.ndarray, dict[str, Any]]:
    """Masks 1, 2, ... (uint8 [h, w]) of tokens [h, w, d] in the order found, less those that the vote empties.

    Diagnostics:
        scores float32 [masks]: mean cosine of a mask's tokens with the token that named it. confidence: their mean
            over the tokens in a mask. groups: masks found. covered: share of the tokens in one. outcome: see TRAITS;
            anything but 0 means: segments all 0, confidence 0.

    Raises:
        NumericsError: a token is NaN or infinite.
    """
    from maskmill.cut._partition import padded
    from maskmill.cut._tokens import flat_tokens

    h, w = tokens.shape[:2]
    x = scaled(flat_tokens(tokens, image_id))
    if not structured(x):
        values = {"confidence": 0.0, "scores": padded(np.zeros(0), params.masks), "groups": 0.0, "covered": 0.0}
        outcome = "one token" if len(x) < 2 else "no structure"
        return np.zeros((h, w), np.uint8), values | {"outcome": float(TRAITS.outcomes[outcome])}
    labels, cosines = masks_of(x, params)
    segments = majority(labels.reshape(h, w)) if params.vote else labels.reshape(h, w)
    scores = np.bincount(labels, cosines)[1:] / np.bincount(labels)[1:]
    size = np.bincount(segments.ravel(), minlength=len(scores) + 1)[1:]
    rank = np.concatenate([[0], np.cumsum(size > 0)])  # numbers without the emptied ones
    confidence = float((scores * size).sum() / max(1, size.sum()))
    found = {"confidence": confidence, "scores": padded(scores[size > 0], params.masks), "groups": float(rank[-1])}
    return rank[segments].astype(np.uint8), found | {"covered": float(size.sum() / len(x)), "outcome": 0.0}

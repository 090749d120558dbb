"""PriMaPs: masks by principal components, one after the other, each of what the last ones left.

Hahn, Araslanov, Schaub-Meyer, Roth, "Boosting unsupervised semantic segmentation with principal mask proposals", TMLR
2024, section 3.1. The first principal direction of the tokens that are left names the token most like it; the mask is
every token left whose cosine with that one exceeds `threshold`; until `covered` of the image is used. The published
code then takes a median over 3 x 3 cells, and a CRF that is no part of a cut here. As every token is in one mask at
most, the median is a vote: a cell gets the mask that five of nine cells agree on, or none.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import Field

from maskmill.config import Model

OUTCOMES = {"cut": 0, "one token": 1, "no structure": 2}
ALIKE = 1e-6  # variance of the tokens, as a share of their mean square, without structure


class Params(Model):
    """Names of the paper."""

    threshold: float = Field(0.4, gt=0, lt=1, description="cosine with the named token above which a token joins")
    covered: float = Field(0.95, gt=0, le=1, description="share of the image at which no more masks are looked for")
    masks: int = Field(32, ge=1, le=254, description="most masks an image")
    vote: bool = Field(True, description="the median over 3 x 3 cells")


def cut(tokens: np.ndarray, params: Params, seed: int, image_id: str) -> tuple[np.ndarray, dict[str, Any]]:
    """Masks 1, 2, ... (uint8 [h, w]) of tokens [h, w, d] in the order found, less those that the vote empties.

    Diagnostics:
        scores float32 [masks]: mean cosine of a mask's tokens with the token that named it. confidence: their mean
            over the tokens in a mask. groups: masks found. covered: share of the tokens in one. outcome: see OUTCOMES;
            anything but 0 means: segments all 0, confidence 0.

    Raises:
        NumericsError: a token is NaN or infinite.
    """
    from maskmill.cut._partition import padded
    from maskmill.cut._tokens import flat_tokens

    h, w = tokens.shape[:2]
    x = flat_tokens(tokens, image_id).astype(np.float64)
    x /= max(float(np.abs(x).max()), 1e-300)  # any scale
    spread, power = float(x.var(0).sum()), float(np.square(x).sum(1).mean())
    if len(x) < 2 or spread <= ALIKE * power:
        values = {"confidence": 0.0, "scores": padded(np.zeros(0), params.masks), "groups": 0.0, "covered": 0.0}
        outcome = "one token" if len(x) < 2 else "no structure"
        return np.zeros((h, w), np.uint8), values | {"outcome": float(OUTCOMES[outcome])}
    labels, cosines = masks_of(x, params)
    segments = majority(labels.reshape(h, w)) if params.vote else labels.reshape(h, w)
    scores = np.bincount(labels, cosines)[1:] / np.bincount(labels)[1:]
    size = np.bincount(segments.ravel(), minlength=len(scores) + 1)[1:]
    rank = np.concatenate([[0], np.cumsum(size > 0)])  # numbers without the emptied ones
    confidence = float((scores * size).sum() / max(1, size.sum()))
    found = {"confidence": confidence, "scores": padded(scores[size > 0], params.masks), "groups": float(rank[-1])}
    return rank[segments].astype(np.uint8), found | {"covered": float(size.sum() / len(x)), "outcome": 0.0}


def masks_of(x: np.ndarray, params: Params) -> tuple[np.ndarray, np.ndarray]:
    """Labels 0 (none), 1, 2, ... [n] of tokens x float64 [n, d], and each token's cosine with its mask's token [n]."""
    n = len(x)
    unit = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-300)  # zero tokens have cosine 0 with all
    labels, cosines, left = np.zeros(n, np.int64), np.zeros(n), np.ones(n, bool)
    for mask in range(1, params.masks + 1):
        if (~left).mean() >= params.covered or not left.any():
            break
        direction = principal_direction(x[left])
        alike = np.where(left, np.abs(unit @ direction), -1)  # either sign: a direction has none
        named = int(np.argmax(alike >= alike.max() - 1e-9))  # of equal ones the first
        cosine = unit @ unit[named]
        joins = left & (cosine >= params.threshold * cosine[named])
        joins[named] = True
        labels[joins], cosines[joins] = mask, cosine[joins]
        left &= ~joins
    return labels, cosines


def principal_direction(x: np.ndarray) -> np.ndarray:
    """Direction of the largest variance of x [m, d], unit [d], of either sign; of one point, its own direction."""
    from scipy.linalg import eigh

    centred = x - x.mean(0)
    if np.square(centred).sum() <= 1e-18 * np.square(x).sum():
        return x[0] / max(float(np.linalg.norm(x[0])), 1e-300)
    m, d = x.shape
    if m < d:  # the smaller of the two Gram matrices
        _, u = eigh(centred @ centred.T, subset_by_index=[m - 1, m - 1])
        direction = centred.T @ u[:, 0]
    else:
        _, v = eigh(centred.T @ centred, subset_by_index=[d - 1, d - 1])
        direction = v[:, 0]
    return direction / np.linalg.norm(direction)


def majority(labels: np.ndarray) -> np.ndarray:
    """The label that at least five of the 3 x 3 cells around have, else 0; beyond the border the image is mirrored."""
    from scipy import ndimage

    votes = np.zeros(labels.shape, labels.dtype)
    for label in range(1, int(labels.max()) + 1):
        # Sums of zeros and ones: exact in any order.
        count = ndimage.convolve((labels == label).astype(np.int64), np.ones((3, 3), np.int64), mode="mirror")
        votes[count >= 5] = label
    return votes

"""Masks by principal components, one after the other, each of what the last ones left (PriMaPs).

Hahn, Araslanov, Schaub-Meyer, Roth, "Boosting unsupervised semantic segmentation with principal mask proposals", TMLR
2024, section 3.1. The first principal direction of the tokens that are left names the token most like it; the mask is
every token left whose cosine with that one exceeds `threshold`; until `covered` of the image is used. The published
code then takes a median over 3 x 3 cells. As every token is in one mask at most, the median is a vote: a cell gets the
mask that five of nine cells agree on, or none.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from maskmill.recipe.base import Model

ALIKE = 1e-6  # variance of the tokens, as a share of their mean square, without structure
DENSE = 64  # side of a matrix up to which all its eigenvectors cost nothing


class Settings(Model):
    """Names of the paper."""

    threshold: float = Field(0.4, gt=0, lt=1, description="cosine with the named token above which a token joins")
    covered: float = Field(0.95, gt=0, le=1, description="share of the image at which no more masks are looked for")
    masks: int = Field(32, ge=1, le=254, description="most masks an image")
    vote: bool = Field(True, description="the median over 3 x 3 cells")


def scaled(tokens: np.ndarray) -> np.ndarray:
    """Tokens [h, w, d] or [n, d] as float64 [n, d] whose largest entry is 1: any scale."""
    x = tokens.reshape(-1, tokens.shape[-1]).astype(np.float64)
    return x / max(float(np.abs(x).max(initial=0.0)), 1e-300)


def structured(x: np.ndarray) -> bool:
    """Whether tokens [n, d] differ at all."""
    return len(x) > 1 and float(x.var(0).sum()) > ALIKE * float(np.square(x).sum(1).mean())


def segments_of(tokens: np.ndarray, settings: Settings) -> np.ndarray:
    """Masks 1, 2, ... of tokens [h, w, d], 0 = in none: uint8 [h, w]; all 0 where the tokens do not differ.

    The vote may have emptied some.
    """
    h, w = tokens.shape[:2]
    x = scaled(tokens)
    if not structured(x):
        return np.zeros((h, w), np.uint8)
    labels = masks_of(x, settings)[0].reshape(h, w)
    return (majority(labels) if settings.vote else labels).astype(np.uint8)


def masks_of(x: np.ndarray, settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """Labels 0 (none), 1, 2, ... [n] of tokens x float64 [n, d], and each token's cosine with its mask's token [n]."""
    n, d = x.shape
    gram = x @ x.T if n < d else None  # with it no later step depends on d
    size = np.maximum(np.linalg.norm(x, axis=1), 1e-300)  # zero tokens have cosine 0 with all
    unit = x / size[:, None]
    labels, cosines, left = np.zeros(n, np.int64), np.zeros(n), np.ones(n, bool)
    for mask in range(1, settings.masks + 1):
        if (~left).mean() >= settings.covered or not left.any():
            break
        along = unit @ principal_direction(x[left]) if gram is None else _along(gram, left) / size
        alike = np.where(left, np.abs(along), -1)  # either sign: a direction has none
        named = int(np.argmax(alike >= alike.max() - 1e-9))  # of equal ones the first
        cosine = unit @ unit[named]
        joins = left & (cosine >= settings.threshold * cosine[named])
        joins[named] = True
        labels[joins], cosines[joins] = mask, cosine[joins]
        left &= ~joins
    return labels, cosines


def _along(gram: np.ndarray, left: np.ndarray) -> np.ndarray:
    """X @ `principal_direction(x[left])` [n] by the products of all tokens x [n, d] with each other, gram [n, n]."""
    rest = gram[:, left]
    own = rest[left]
    mean = own.mean(0)
    centred = own - mean - mean[:, None] + mean.mean()
    if np.trace(centred) <= 1e-13 * np.trace(own):  # differences of products: rounding is as large
        return rest[:, 0] / max(float(np.sqrt(own[0, 0])), 1e-300)
    u = _top(centred)
    u = u - u.mean()
    return np.asarray(rest @ u) / np.sqrt(u @ centred @ u)


def principal_direction(x: np.ndarray) -> np.ndarray:
    """Direction of the largest variance of x [m, d], unit [d], of either sign; of one point, its own direction."""
    centred = x - x.mean(0)
    if np.square(centred).sum() <= 1e-18 * np.square(x).sum():
        return x[0] / max(float(np.linalg.norm(x[0])), 1e-300)
    m, d = x.shape
    # The smaller of the two Gram matrices.
    direction = centred.T @ _top(centred @ centred.T) if m < d else _top(centred.T @ centred)
    return np.asarray(direction / np.linalg.norm(direction))


def _top(matrix: np.ndarray) -> np.ndarray:
    """Eigenvector [n] of the largest eigenvalue of a symmetric matrix [n, n], to the last digit."""
    from scipy.linalg import eigh
    from scipy.sparse.linalg import ArpackNoConvergence, eigsh

    n = len(matrix)
    if n > DENSE:
        start = np.random.default_rng(0).standard_normal(n)  # constants are in the null space of a centred matrix
        try:
            return np.asarray(eigsh(matrix, k=1, which="LA", v0=start, tol=0)[1][:, 0])
        except ArpackNoConvergence:  # no gap
            pass
    return np.asarray(eigh(matrix, subset_by_index=[n - 1, n - 1])[1][:, 0])


def majority(labels: np.ndarray) -> np.ndarray:
    """The label that at least five of the 3 x 3 cells around have, else 0; beyond the border the image is mirrored."""
    from scipy import ndimage

    votes = np.zeros(labels.shape, labels.dtype)
    for label in range(1, int(labels.max()) + 1):
        # Sums of zeros and ones: exact in any order.
        count = ndimage.convolve((labels == label).astype(np.int64), np.ones((3, 3), np.int64), mode="mirror")
        votes[count >= 5] = label
    return votes

"""The nearest labelled vectors vote: dense retrieval, without clusters and without training.

Balazevic et al., "Towards In-Context Scene Understanding" (NeurIPS 2023), section 3, as in `evaluate.retrieval`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from maskmill.errors import NumericsError
from maskmill.numerics.mixing import Anchors
from maskmill.numerics.neighbours import unit_rows
from maskmill.numerics.sampling import rng
from maskmill.taxonomy._votes import weights

NEAREST = 30
TEMPERATURE = 0.05
MOST = 100_000  # labelled vectors in memory


@dataclass(frozen=True)
class Bank:
    """Labelled vectors: keys [n, d] float32 of unit length; votes [n, K] float32, their shares times class weights."""

    keys: np.ndarray
    votes: np.ndarray


def fit(x: np.ndarray, shares: np.ndarray, prior: float = 0.5, seed: int = 0) -> Bank:
    """Keep the labelled vectors.

    Args:
        x: [n, d] floats, vectors of the labelled images, in any order.
        shares: [n, K], what share of each vector's pixels has each class; void pixels are missing from it.
        prior: a vote for a class counts 1 / (its share of all) ** prior, as in `_votes.Voting`.
        seed: of the vectors drawn where there are more than MOST.

    Raises:
        NumericsError: no labelled vector.
    """
    rows = np.flatnonzero(shares.any(axis=1)) if len(shares) else np.zeros(0, np.int64)
    if not len(rows):
        raise NumericsError("taxonomy: no labelled vector; check that the labels of the examples are not all void")
    if len(rows) > MOST:
        rows = np.sort(rng(seed, "taxonomy", "neighbours").choice(rows, MOST, replace=False))
    votes = shares[rows] * weights(shares, prior)
    return Bank(np.ascontiguousarray(unit_rows(x[rows].astype(np.float32))), votes.astype(np.float32))


def score(x: np.ndarray, bank: Bank, nearest: int = NEAREST, temperature: float = TEMPERATURE) -> np.ndarray:
    """Class probabilities [n, K] float32 of vectors [n, d]: the nearest keys vote by softmax(cosine / temperature).

    Raises:
        NumericsError: another number of dimensions, or NaN or infinite values.
    """
    return Anchors(bank.keys, True, nearest, temperature).odds(x, bank.votes)

"""A simulated person who names clusters, and the orders in which clusters are named."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp
from _naming import metrics, scored
from _tokens import Tokens

from maskmill.store.codebook import Codebook, assign
from maskmill.taxonomy import _suggest, _votes


def majority_names(known: Tokens, images: Sequence[int], book: Codebook) -> np.ndarray:
    """What a person calls each cluster [k]: the class of most of its labelled pixels; -1 where it has none."""
    rows = known.rows(images)
    votes = np.zeros((len(book), len(known.classes)))
    np.add.at(votes, assign(known.vectors[rows], book)[0], known.shares[rows])
    return np.where(votes.any(axis=1), votes.argmax(axis=1), -1)


def by_names(book: Codebook, names: np.ndarray, chosen: np.ndarray, classes: int) -> _votes.Named:
    """Names of all clusters from those of the chosen ones, which weigh as much as they are large."""
    votes = np.zeros((len(book), classes))
    some = chosen[names[chosen] >= 0]
    votes[some, names[some]] = book.counts[some]
    return _votes.spread(votes, votes.sum(axis=1), book)


def mixture(x: np.ndarray, book: Codebook) -> sp.csr_array:
    """How vectors [n, d] are written by their nearest centroids: weights [n, m]."""
    n, blocks = _votes.Voting().nearest, list(_votes.anchors(book, _votes.Voting()).weights(x))
    found, weight = (np.concatenate([block[i] for block in blocks]) for i in (1, 2))
    ends = np.arange(0, found.size + 1, n)
    return sp.csr_array((weight.ravel(), found.ravel(), ends), shape=(len(x), len(book.centroids)))


def named_score(
    known: Tokens,
    held: Sequence[int],
    mixed: sp.csr_array,
    book: Codebook,
    names: np.ndarray,
    chosen: np.ndarray,
    pixels: bool = True,
) -> tuple[float, float]:
    """Scores when the chosen clusters have names.

    Args:
        mixed: `mixture` of the tokens of the held images. pixels: score pixels; else tokens by the classes' shares of
            them, which takes a tenth of the time.
    """
    chances = np.asarray(mixed @ by_names(book, names, chosen, len(known.classes)).shares, np.float32)
    if pixels:
        return scored(known, held, chances)
    shares, best = known.shares[known.rows(held)], chances.argmax(axis=1)
    return metrics(np.stack([shares[best == c].sum(axis=0) for c in range(shares.shape[1])], axis=1))


def suggested(book: Codebook, names: np.ndarray, classes: int, count: int, step: int = 10) -> np.ndarray:
    """Clusters in the order in which they are suggested to a person who names `step` of them at a time."""
    alike = _suggest.likeness(book)
    chosen: np.ndarray = np.zeros(0, np.int64)
    unsure = np.ones(len(book))
    while len(chosen) < count:
        done = np.zeros(len(book), bool)
        done[chosen] = True
        more, _ = _suggest.clusters(book.counts, unsure, alike, min(step, count - len(chosen)), done)
        chosen = np.concatenate([chosen, more])
        unsure = 1 - by_names(book, names, chosen, classes).confidence
    return chosen


def largest_first(book: Codebook) -> np.ndarray:
    """Clusters by their size, the lower one of equals first."""
    return np.argsort(-book.counts, kind="stable")

"""How well clusters, or the classes made of them, fit vectors; the best one is the value that the mask gets."""

from __future__ import annotations

import numpy as np

from maskmill.errors import NumericsError
from maskmill.numerics.mixing import Anchors
from maskmill.numerics.multinomial import probabilities
from maskmill.numerics.neighbours import unit_rows
from maskmill.store import codebook as books
from maskmill.store.classes import IGNORE, Classes, Labels
from maskmill.store.codebook import Codebook


def scores(x: np.ndarray, labels: Labels) -> np.ndarray:
    """How well each cluster or each column of classes fits each vector: [n, C] float32, larger fits better.

    Of clusters and of classes that own clusters as `codebook.scores`: the score of the best cluster. A part of a split
    cluster has the cluster's score, less what it is behind the best part: so splitting one cluster moves no vector of
    another. Of the other kinds: probabilities.

    Args:
        x: [n, d] float16 or float32.

    Raises:
        NumericsError: another number of dimensions, or NaN in `x`.
    """
    if isinstance(labels, Codebook):
        return books.scores(x, labels)
    return {"merged": _merged, "mixed": _mixed, "linear": _linear}[labels.kind](x, labels)


def values(labels: Labels, dtype: np.dtype) -> np.ndarray:
    """The mask value [C] of every column of `scores`."""
    unknown = int(np.iinfo(dtype).max)
    if isinstance(labels, Codebook):
        noise = 0 if labels.noise_is_background else unknown
        return np.array([*range(1, len(labels) + 1), noise], dtype)[: len(labels) + labels.noise]
    return np.where(labels.columns == IGNORE, unknown, labels.columns).astype(dtype)


def margin(first: np.ndarray, second: np.ndarray, spherical: bool) -> np.ndarray:
    """1 - (distance to the nearest) / (distance to the second), 0..1, of the scores of these two; 0 where equal."""
    near, far = (1 - first, 1 - second) if spherical else (-first, -second)
    return np.asarray(np.clip(1 - np.maximum(near, 0) / np.maximum(far, 1e-12), 0, 1))


def assign(x: np.ndarray, labels: Classes) -> np.ndarray:
    """The value [n] int32 of every vector [n, d]: its class 1..K, BACKGROUND or IGNORE."""
    found = np.zeros(len(x), np.int32)
    step = max(1, books.BLOCK_BYTES // (4 * max(1, _widest(labels))))
    for start in range(0, len(x), step):
        found[start : start + step] = labels.columns[scores(x[start : start + step], labels).argmax(axis=1)]
    return found


def _widest(labels: Classes) -> int:
    """Numbers a vector that scoring holds at once."""
    if labels.book is not None:
        return len(labels.book.centroids)
    return max(len(value) for value in labels.tensors.values() if np.ndim(value))


def _merged(x: np.ndarray, labels: Classes) -> np.ndarray:
    book, cluster, column = labels.book, labels.tensors["leaf_cluster"], labels.tensors["leaf_column"]
    assert book is not None
    leaf = books.scores(x, book)[:, cluster]  # [n, L]
    parts, several = labels.tensors["parts"], np.flatnonzero(np.bincount(cluster)[cluster] > 1)
    if len(parts):
        own = books.scores(x, Codebook(parts, np.zeros(len(parts), np.int64), 0.0, book.spherical))  # [n, P]
        starts = np.flatnonzero(np.diff(cluster[several], prepend=-1))
        best = np.maximum.reduceat(own, starts, axis=1)  # [n, split clusters]
        leaf[:, several] += own - np.repeat(best, np.diff([*starts, len(several)]), axis=1)
    order = np.argsort(column, kind="stable")
    return np.asarray(np.maximum.reduceat(leaf[:, order], np.flatnonzero(np.diff(column[order], prepend=-1)), axis=1))


def _mixed(x: np.ndarray, labels: Classes) -> np.ndarray:
    found = labels.tensors
    near = Anchors(found["centroids"], bool(found["spherical"]), int(found["nearest"]), float(found["width"]))
    return near.odds(x, found["shares"])


def _linear(x: np.ndarray, labels: Classes) -> np.ndarray:
    weights = labels.tensors["weights"]
    if x.ndim != 2 or x.shape[1] != len(weights):
        raise NumericsError(
            f"vectors of shape {x.shape} do not fit classes of {len(weights)} dimensions; they must come from the same "
            "features and reduction as the labelled ones"
        )
    odds = probabilities(unit_rows(x.astype(np.float32)), weights, labels.tensors["bias"])
    if not np.isfinite(odds).all():
        raise NumericsError("vectors hold NaN or infinite values; check the features or the reduction that made them")
    return odds

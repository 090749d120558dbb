"""A linear probe on the vectors of labelled images: multinomial logistic regression on their class shares.

It looks at nothing but the labelled vectors: no clusters, no unlabelled images. Its strength is chosen without the
labels that it is scored on, by leaving out labelled images in turn.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from maskmill.errors import NumericsError
from maskmill.numerics import multinomial
from maskmill.numerics.neighbours import unit_rows
from maskmill.numerics.sampling import rng
from maskmill.taxonomy._votes import weights

PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)  # on the squared weights, per standardised feature, against the mean loss
ALONE = 1e-2  # of a single labelled image, which cannot be left out
FOLDS = 3
MOST, MOST_CHOICE = 60_000, 4_000  # vectors of the fit, and of the choice of its penalty
ROWS = 65536


@dataclass(frozen=True)
class Probe:
    """A linear classifier of vectors of unit length: weights [d, K], bias [K], float32; penalty: what was chosen."""

    weights: np.ndarray
    bias: np.ndarray
    penalty: float


def fit(
    x: np.ndarray, shares: np.ndarray, images: np.ndarray, prior: float = 0.5, seed: int = 0, threads: int = 1
) -> Probe:
    """Fit the probe.

    Args:
        x: [n, d] floats, vectors of the labelled images, in any order.
        shares: [n, K], what share of each vector's pixels has each class; void pixels are missing from it.
        images: [n], the number of the image of each vector.
        prior: a class weighs 1 / (its share of all) ** prior, as in `_votes.Voting`.
        seed: of the vectors drawn where there are more than MOST.

    Raises:
        NumericsError: no labelled vector, or values that are not finite.
    """
    usable = np.flatnonzero(shares.any(axis=1)) if len(shares) else np.zeros(0, np.int64)
    if not len(usable):
        raise NumericsError("taxonomy: no labelled vector; check that the labels of the examples are not all void")
    rows = _drawn(usable, MOST, seed)
    points, targets, image = _unit(x[rows]), shares[rows], images[rows]
    targets = (targets * weights(targets, prior)).astype(np.float32)
    penalty = _chosen(points, targets, image, seed, threads)
    model, _ = multinomial.fit(points, targets, penalty, threads, "cpu", "taxonomy")
    return Probe(model.weight, _only_seen(model.bias, targets), penalty)


def score(x: np.ndarray, probe: Probe) -> np.ndarray:
    """Class probabilities [n, K] float32 of vectors [n, d]; a class without a label has none."""
    out: np.ndarray = np.empty((len(x), len(probe.bias)), np.float32)
    for start in range(0, len(x), ROWS):
        out[start : start + ROWS] = multinomial.probabilities(_unit(x[start : start + ROWS]), probe.weights, probe.bias)
    return out


def _chosen(x: np.ndarray, y: np.ndarray, image: np.ndarray, seed: int, threads: int) -> float:
    """The penalty of the least loss on images left out in turn; a class that only they have is not counted there."""
    names = np.unique(image)
    if len(names) < 2:
        return ALONE
    rows = _drawn(np.arange(len(x)), MOST_CHOICE, seed)
    x, y, fold = x[rows], y[rows], np.searchsorted(names, image[rows]) % min(FOLDS, len(names))
    losses = np.zeros(len(PENALTIES))
    for left in range(fold.max() + 1):
        here, there = np.flatnonzero(fold != left), np.flatnonzero(fold == left)
        seen = y[here].any(axis=0)
        target = y[there][:, seen]
        if not seen.any() or not target.any():
            continue
        for i, penalty in enumerate(PENALTIES):
            model, _ = multinomial.fit(x[here], y[here][:, seen], penalty, threads, "cpu", "taxonomy")
            logits = (x[there] @ model.weight + model.bias).astype(np.float64)
            logits -= logits.max(axis=1, keepdims=True)
            losses[i] -= (target * (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)))).sum()
    return PENALTIES[int(losses.argmin())]


def _only_seen(bias: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The bias of a class without a label is so low that it is never predicted."""
    return np.where(y.any(axis=0), bias, np.float32(-1e4)).astype(np.float32)


def _drawn(rows: np.ndarray, most: int, seed: int) -> np.ndarray:
    """At most so many of some rows, ascending."""
    if len(rows) <= most:
        return rows
    return np.sort(rng(seed, "taxonomy", "probe").choice(rows, most, replace=False))


def _unit(x: np.ndarray) -> np.ndarray:
    ready = unit_rows(x.astype(np.float32))
    if not np.isfinite(ready).all():
        raise NumericsError("taxonomy: the vectors hold NaN or infinite values; check the features that made them")
    return np.asarray(ready)

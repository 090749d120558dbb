"""Calibration of classes that labelled images made: each image is scored by classes that it did not name.

The labelled images are divided into folds of neighbours (frames of a film that follow each other stay together, and so
do windows, pages and composites of one file); the classes are learnt from the others, and say of every region what it
is and how probable. A region is right if most of its labelled pixels have that class; regions of a class that none of
the others shows do not count, as the classes that are used know it. Probability
against right gives one curve for all classes and images together: logistic for few of them (Platt, "Probabilistic
Outputs for Support Vector Machines", 1999), isotonic for many (Zadrozny and Elkan, KDD 2002), as isotonic curves
overfit below about a thousand cases (Niculescu-Mizil and Caruana, ICML 2005).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from maskmill.errors import InputError, NumericsError
from maskmill.painting.scoring import scores
from maskmill.store.calibration import Calibration, Kind
from maskmill.store.classes import IGNORE, Classes
from maskmill.store.codebook import Codebook, assign
from maskmill.taxonomy._labelled import Labelled

FOLDS = 5
LEAST_IMAGES, LEAST_REGIONS = 3, 50  # of any curve
MANY_IMAGES, MANY_REGIONS = 10, 1000  # of an isotonic one
KNOWN = 0.5  # share of a region's pixels that have a label, where it counts
STEPS = 512  # of a probability, within which regions are taken together
BINS = 15  # of the expected calibration error (Guo, Pleiss, Sun and Weinberger, ICML 2017)
LEAST = 1e-6  # of a probability
Learn = Callable[[Labelled], Classes]


def calibrate(found: Labelled, learn: Learn, ground: Codebook | None = None) -> Calibration:
    """The calibration of what `learn` makes of labelled images.

    Args:
        found: the labelled images. learn: their classes. ground: codebook of background and foreground: what it calls
            background gets no class, and does not count.
    """
    named, files = np.unique(found.files, return_inverse=True)  # files without a vector are none
    images = len(named)
    if images < LEAST_IMAGES:
        return _too_few(0, images)
    fold = _folds(images)[files]
    known, most = found.shares.sum(axis=1) >= KNOWN, found.shares.argmax(axis=1)
    if ground is not None:
        known &= assign(found.vectors, ground)[0] == 1
    odds, right = np.full(len(fold), np.nan), np.zeros(len(fold), bool)
    for each in range(fold.max() + 1):
        seen = found.shares[fold != each].any(axis=0)
        held = np.flatnonzero((fold == each) & known & seen[most])
        try:
            classes = learn(without(found, fold == each))
        except (InputError, NumericsError):  # the others hold no class: nothing is said of these
            continue
        odds[held], right[held] = judged(found.vectors[held], found.shares[held], found.classes, classes)
    usable = np.isfinite(odds)
    counted = len(np.unique(files[usable]))
    if usable.sum() < LEAST_REGIONS or counted < LEAST_IMAGES:
        return _too_few(int(usable.sum()), counted)
    return fit(odds[usable], right[usable], files[usable], fold[usable])


def _too_few(regions: int, images: int) -> Calibration:
    seen = f"{images} labelled image{'' if images == 1 else 's'}" + (f" with {regions} regions" if regions else "")
    return Calibration.none(f"{seen}; at least {LEAST_IMAGES} with {LEAST_REGIONS} regions are needed", regions, images)


def _folds(images: int) -> np.ndarray:
    """The fold [images] of every image: images that follow each other are in one."""
    several = min(FOLDS, images)
    return np.arange(images) * several // images


def without(found: Labelled, left_out: np.ndarray) -> Labelled:
    """The labelled images without the vectors that are left out, bool [n]; classes keep their places."""
    kept = ~left_out
    return replace(found, vectors=found.vectors[kept], shares=found.shares[kept], images=found.images[kept])


def judged(x: np.ndarray, shares: np.ndarray, labels: Sequence[int], classes: Classes) -> tuple[np.ndarray, np.ndarray]:
    """Probability [n] of the best class of vectors [n, d], NaN where nothing is said, and whether it is right, bool.

    Args:
        shares: [n, C], of the pixels of each that have each label. labels: [C], the label ids.
    """
    value, odds = called(x, classes)
    own = {0: classes.background_label} | dict(enumerate(classes.label_ids, 1))
    said = np.array([-1 if own.get(int(v)) is None else own[int(v)] for v in value])
    most = np.asarray(labels)[shares.argmax(axis=1)]
    return np.where(value == IGNORE, np.nan, odds), said == most


def called(x: np.ndarray, classes: Classes) -> tuple[np.ndarray, np.ndarray]:
    """Value [n] int32 of the best class of vectors [n, d], and its probability [n] float64; of kinds with these."""
    found = np.asarray(scores(x, classes))
    best = found.argmax(axis=1)
    return classes.columns[best], found[np.arange(len(found)), best].astype(np.float64)


def fit(odds: np.ndarray, right: np.ndarray, images: np.ndarray, fold: np.ndarray) -> Calibration:
    """The curve of probabilities [n] that were right or not, bool [n], in images and folds [n].

    It is used where, fitted without the images that it is compared on, it comes closer than the probability itself.
    """
    names = np.unique(images)
    kind: Kind = "isotonic" if len(names) >= MANY_IMAGES and len(odds) >= MANY_REGIONS else "platt"
    after = np.zeros(len(odds))
    for each in np.unique(fold):
        here = fold == each
        after[here] = Calibration(kind, curve(odds[~here], right[~here], kind), 0, 0).confidence(odds[here])
    errors = expected_error(odds, right), expected_error(after, right)
    if errors[1] >= errors[0]:  # few images, or probabilities that were right before: a curve would only add noise
        return Calibration.identity(len(odds), len(names), errors[0])
    return Calibration(kind, curve(odds, right, kind), len(odds), len(names), *errors)


def curve(odds: np.ndarray, right: np.ndarray, kind: Kind) -> np.ndarray:
    """Points [n, 2] of a curve that never falls, from probabilities [n] and whether they were right, bool [n].

    No confidence is 0 or 1: n cases cannot say more than 1 / (n + 2) and (n + 1) / (n + 2).
    """
    least = 1 / (len(odds) + 2)
    points = _logistic(odds, right) if kind == "platt" else _isotonic(odds, right)
    points[:, 1] = points[:, 1].clip(least, 1 - least)
    return points


def _isotonic(odds: np.ndarray, right: np.ndarray) -> np.ndarray:
    from sklearn.isotonic import IsotonicRegression

    step = np.round(odds * STEPS).astype(np.int64)
    cases = np.bincount(step)
    at = np.flatnonzero(cases)
    share = np.bincount(step, right)[at] / cases[at]
    model = IsotonicRegression(y_min=0, y_max=1).fit(at / STEPS, share, sample_weight=cases[at])
    return np.stack([model.X_thresholds_, model.y_thresholds_], axis=1)


def _logistic(odds: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Points of sigmoid(a logit(p) + b), a >= 0; targets are drawn in as Platt does, so that few cases are no proof."""
    from scipy.optimize import minimize

    logits, hits = _logit(odds), int(right.sum())
    target = np.where(right, (hits + 1) / (hits + 2), 1 / (len(right) - hits + 2))

    def loss(values: np.ndarray) -> tuple[float, np.ndarray]:
        z = values[0] * logits + values[1]
        slope = 1 / (1 + np.exp(-z)) - target
        return float((np.logaddexp(0, z) - target * z).mean()), np.array([(slope * logits).mean(), slope.mean()])

    a, b = minimize(loss, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B", bounds=[(0, None), (None, None)]).x
    at = np.linspace(0, 1, 65)
    return np.stack([at, 1 / (1 + np.exp(-(a * _logit(at) + b)))], axis=1)


def _logit(odds: np.ndarray) -> np.ndarray:
    p = np.clip(odds, LEAST, 1 - LEAST)
    return np.asarray(np.log(p) - np.log1p(-p))


def expected_error(confidence: np.ndarray, right: np.ndarray, bins: int = BINS) -> float:
    """Expected calibration error: mean distance of confidence [n] and share of right ones, bool [n], in equal bins."""
    place = np.minimum((np.asarray(confidence, np.float64) * bins).astype(np.int64), bins - 1)
    gap = np.bincount(place, np.asarray(confidence, np.float64) - right, minlength=bins)
    return float(np.abs(gap).sum() / max(1, len(place)))

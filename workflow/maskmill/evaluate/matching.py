"""Matching of clusters to classes, and the metrics after it, from one confusion matrix.

A matching is an int64 array [rows]: the class column of every cluster row, or -1. Rows without a match predict no
class at all: their pixels stay in the denominator of accuracy and in the union of their true class.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

DISCOVERED = 0.20  # a class counts as discovered from this IoU (COMUS, section 4)


@dataclass(frozen=True)
class Metrics:
    """Numbers of one matching.

    Attributes:
        accuracy: matched pixels / all scored pixels. miou: mean of `iou`.
        iou: [classes] float64. discovered: classes with IoU >= 0.20.
        unmatched: share of the scored pixels that lie in rows without a match.
    """

    accuracy: float
    miou: float
    iou: np.ndarray
    discovered: int
    unmatched: float


def hungarian_counts(counts: np.ndarray) -> np.ndarray:
    """One-to-one matching with the most matched pixels (PiCIE, STEGO). Ties: the larger sum of IoU.

    Args:
        counts: [rows, classes] int64, every class has pixels.
    """
    # All pixel sums are whole numbers and the second term sums to at most a half: it only decides between equals.
    return _assign(counts + iou_matrix(counts) / (2 * max(counts.shape)), counts)


def hungarian_iou(counts: np.ndarray) -> np.ndarray:
    """One-to-one matching with the largest sum of IoU (MaskContrast, COMUS). Ties: more matched pixels."""
    return _assign(iou_matrix(counts) + 1e-9 * counts / max(1, counts.sum()), counts)


def many_to_one(counts: np.ndarray) -> np.ndarray:
    """Each row to the class that most of its pixels have, the first among equals; empty rows to none.

    Dividing a row by its size does not move its maximum: the majority class is the class of highest precision.
    """
    return np.where(counts.any(axis=1), counts.argmax(axis=1), -1).astype(np.int64)


def many_to_one_iou(counts: np.ndarray) -> np.ndarray:
    """Each row to the class of the largest IoU with it, the first among equals; empty rows to none (DSM, COMUS).

    Large clusters of several classes go to a large class here, and small pure ones to a small class or to the
    background: it is another rule than the majority of `many_to_one`.
    """
    return np.where(counts.any(axis=1), iou_matrix(counts).argmax(axis=1), -1).astype(np.int64)


def hungarian_iou_background(counts: np.ndarray, background: int) -> np.ndarray:
    """`hungarian_iou`, and every row that it leaves over to the background's column (Leopart, DSM, COMUS)."""
    match = hungarian_iou(counts)
    return np.where((match < 0) & counts.any(axis=1), background, match)


MATCHERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "hungarian_counts": hungarian_counts,
    "hungarian_iou": hungarian_iou,
    "many_to_one": many_to_one,
    "many_to_one_iou": many_to_one_iou,
}


class PerImage:
    """Clusters matched to classes anew in each image, by `hungarian_counts`: an oracle, no score of a clustering.

    Published results of systems that segment images one by one are of this kind (DiffSeg, DiffCut). Their code also
    assigns surplus clusters to arbitrary classes that the image does not have, in the order of the ids; here such a
    cluster has no class.

    Attributes:
        counts: int64 [classes + 1, classes] of all images: predicted class, and no class in the last row.
    """

    def __init__(self) -> None:
        self.counts = np.zeros((1, 0), np.int64)

    def add(self, counts: np.ndarray) -> None:
        """Count an image's [rows, classes]; its last row is never matched. Later images may bring further columns."""
        classes = counts.shape[1]
        grown = np.zeros((classes + 1, classes), np.int64)
        known = self.counts.shape[1]
        grown[:known, :known], grown[-1, :known] = self.counts[:-1], self.counts[-1]
        there = np.flatnonzero(counts.any(axis=0))
        match = np.full(len(counts), classes, np.int64)
        if len(there):
            found = hungarian_counts(counts[:-1, there])
            match[:-1] = np.where(found >= 0, there[found], classes)
        np.add.at(grown, match, counts)
        self.counts = grown


def by_name(names: Mapping[int, str], classes: Sequence[str], rows: int) -> np.ndarray:
    """Each row to the class of the same name, whatever its capitals, and blanks or underscores; others to none.

    Args:
        names: row -> name. classes: names of the columns. rows: number of rows.
    """
    exact = {name: column for column, name in enumerate(classes)}
    plain = [_plain(name) for name in classes]
    alike = {name: column for column, name in enumerate(plain) if plain.count(name) == 1}
    match = np.full(rows, -1, np.int64)
    for row, name in names.items():
        match[row] = exact.get(name, alike.get(_plain(name), -1))
    return match


def _plain(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").split())


def iou_matrix(counts: np.ndarray) -> np.ndarray:
    """IoU [rows, classes] float64 of every cluster with every class; 0 where both are empty."""
    union = counts.sum(axis=1, keepdims=True) + counts.sum(axis=0, keepdims=True) - counts
    return counts / np.maximum(union, 1)


def _assign(gain: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Rows to columns with the largest sum of `gain`; a pair without a common pixel is no match."""
    from scipy.optimize import linear_sum_assignment

    match = np.full(len(counts), -1, np.int64)
    rows, columns = linear_sum_assignment(gain, maximize=True)
    overlap = counts[rows, columns] > 0
    match[rows[overlap]] = columns[overlap]
    return match


def metrics(counts: np.ndarray, match: np.ndarray) -> Metrics:
    """Metrics of a matching; rows beyond `len(match)` (predicted ignore) are unmatched.

    Args:
        counts: [rows, classes] int64, every class has pixels.
        match: [<= rows] int64, class column or -1.
    """
    classes = counts.shape[1]
    rows = np.flatnonzero(match >= 0)
    merged = np.zeros((classes, classes), np.int64)  # [predicted class, true class]
    np.add.at(merged, match[rows], counts[rows])
    hit = np.diagonal(merged)  # [classes]
    iou = hit / (merged.sum(axis=1) + counts.sum(axis=0) - hit)
    total = int(counts.sum())
    return Metrics(
        accuracy=int(hit.sum()) / total,
        miou=float(iou.mean()),
        iou=iou,
        discovered=int((iou >= DISCOVERED).sum()),
        unmatched=(total - int(merged.sum())) / total,
    )

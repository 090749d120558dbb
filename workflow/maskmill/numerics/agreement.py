"""How far two label maps of the same images agree, whatever their labels are called.

A label is a number from 0 (background is a label like any other); a table counts the cells that have label i in one map
and label j in the other. Cells that either map leaves open are in no table.
"""

from __future__ import annotations

import numpy as np

OPEN = -1


def table(a: np.ndarray, b: np.ndarray, sizes: tuple[int, int]) -> np.ndarray:
    """Cells by their labels in both maps: int64 [sizes[0], sizes[1]].

    Args:
        a, b: integer labels of the same shape, OPEN (-1) where a cell has none.
        sizes: number of labels of each map; larger ones are an error of the caller (ValueError of the reshape).
    """
    known = (a != OPEN) & (b != OPEN)
    pairs = a[known].astype(np.int64) * sizes[1] + b[known]
    return np.bincount(pairs, minlength=sizes[0] * sizes[1]).reshape(sizes)


def adjusted_rand(counts: np.ndarray) -> float:
    """Adjusted Rand index of two partitions by the cells [n, m] that they share (Hubert and Arabie 1985).

    It is 1 for the same partition, 0 on average for independent ones, and may be negative. Two partitions without a
    choice (all cells in one part of both, or each in a part of its own) agree: 1.
    """

    def pairs(cells: np.ndarray) -> int:
        return int((cells * (cells - 1) // 2).sum())

    counts = np.asarray(counts, np.int64)
    both, rows, columns, every = (pairs(c) for c in (counts, counts.sum(1), counts.sum(0), counts.sum()))
    # whole numbers of pairs, exact; both sides of the fraction are multiplied by 2 * every
    denominator = every * (rows + columns) - 2 * rows * columns
    return 2 * (both * every - rows * columns) / denominator if denominator else 1.0


def overlap(counts: np.ndarray) -> np.ndarray:
    """IoU [n, m] float64 of every label with every other; 0 where both are empty."""
    union = counts.sum(axis=1, keepdims=True) + counts.sum(axis=0, keepdims=True) - counts
    return np.asarray(counts / np.maximum(union, 1))


def matched_iou(counts: np.ndarray) -> float:
    """Mean IoU after the one-to-one matching with the largest sum of IoU, over the labels of the map that has more.

    Labels without a cell do not count, and labels without a partner count 0. NaN where no cell is labelled.
    """
    from scipy.optimize import linear_sum_assignment

    iou = overlap(counts[counts.any(axis=1)][:, counts.any(axis=0)])
    return float(iou[linear_sum_assignment(iou, maximize=True)].sum() / max(iou.shape)) if iou.size else float("nan")


def best_iou(counts: np.ndarray) -> np.ndarray:
    """IoU [n] of every row's label with the column that fits it best; NaN for labels without a cell."""
    return np.where(counts.any(axis=1), overlap(counts).max(axis=1, initial=0), np.nan)


def same(counts: np.ndarray) -> np.ndarray:
    """Which pairs of labels mean the same: bool [n, m].

    Labels are matched one to one with the largest sum of IoU. A label that is left over, as the maps have different
    numbers of them, means the same as the one of the largest IoU. Labels that share no cell never mean the same.
    """
    from scipy.optimize import linear_sum_assignment

    iou = overlap(counts)
    found = np.zeros(iou.shape, bool)
    if iou.size:
        found[linear_sum_assignment(iou, maximize=True)] = True
        found &= counts > 0
        rows, columns = np.flatnonzero(~found.any(axis=1)), np.flatnonzero(~found.any(axis=0))
        found[rows, iou[rows].argmax(axis=1)] = True
        found[iou[:, columns].argmax(axis=0), columns] = True
    return found & (counts > 0)


def agreeing(a: np.ndarray, b: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Whether both maps say the same of a cell: float32 of their shape, 1 or 0, NaN where either leaves it open.

    Args:
        a, b: integer labels, OPEN (-1) where a cell has none. pairs: of `same`, over all images.
    """
    said = pairs[a, b].astype(np.float32)  # an open cell looks up the last label, and is overwritten
    said[(a == OPEN) | (b == OPEN)] = np.nan
    return said

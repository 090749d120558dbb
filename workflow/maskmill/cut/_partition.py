"""From eigenvectors to groups, and what a grouping costs: k-means, pivoted QR, background, Ncut scores.

Notation as in maskmill.cut._engine: y are rows [k, n]; labels are 0..k-1 [n].
"""

from __future__ import annotations

import numpy as np
import torch

from maskmill.cut.kmeans import lloyd, plus_plus


def by_kmeans(y: np.ndarray, groups: int, generator: np.random.Generator, restarts: int) -> np.ndarray:
    """k-means on the tokens' coordinates y [k, n]: labels [n], the best of `restarts` seeded starts.

    The scale of y as a whole does not matter. There are fewer groups where fewer tokens differ.
    """
    x = torch.from_numpy(np.ascontiguousarray(y.T, dtype=np.float32))  # [n, k]
    x = x / x.square().mean().sqrt().clamp_min(1e-30)
    best, least = np.zeros(len(x), np.int64), np.inf
    for _ in range(restarts):
        labels, inertia, _ = lloyd(x, plus_plus(x, groups, generator))
        if inertia < least * (1 - 1e-6):  # of equal ones the first
            best, least = labels.numpy(), inertia
    return best


def by_qr(y: np.ndarray) -> np.ndarray:
    """One group a vector, without a seed or an iteration: labels [n] of y [k, n], the constant vector included.

    Damle, Minden, Ying, "Simple, direct and efficient multi-way spectral clustering", 2019: a QR factorisation with
    column pivoting picks the k most different tokens; the rotation closest to what they span turns the vectors into
    soft indicators of the groups, and each token goes to its largest.
    """
    from scipy.linalg import polar, qr

    _, pivots = qr(y, mode="r", pivoting=True)
    rotation, _ = polar(y[:, pivots[: len(y)]])  # [k, k]: column c is the direction of the c-th picked token
    return np.abs(rotation.T @ y).argmax(0)


def compact(labels: np.ndarray) -> np.ndarray:
    """Labels 0, 1, ... in the order of their first token [n]."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse]


def background_of(labels: np.ndarray) -> int:
    """The label of labels [h, w] with most of the border; its corners count twice. Of equal ones the smallest."""
    border = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    return int(np.bincount(border).argmax())


def without_ground(labels: np.ndarray, drop: bool) -> tuple[np.ndarray, np.ndarray]:
    """Segments uint8 [h, w] of labels 0, 1, ... [h, w], and which labels they are [k]: 1, 2, ... in the same order.

    Args:
        drop: labels with a larger share of the border than of the image become 0 (boundary prior: Wei, Wen, Zhu, Sun,
            "Geodesic saliency using background priors", ECCV 2012). At least one label is left.
    """
    count = int(labels.max()) + 1
    edge = np.ones(labels.shape, bool)
    edge[1:-1, 1:-1] = False
    border, size = np.bincount(labels[edge], minlength=count), np.bincount(labels.ravel())
    kept = np.flatnonzero(border * labels.size <= size * edge.sum()) if drop else np.arange(count)
    number = np.zeros(count, np.uint8)
    number[kept] = np.arange(1, len(kept) + 1)
    return number[labels], kept


def eigengap_groups(values: np.ndarray) -> int:
    """Groups by the largest gap of lambda_1 = 0, lambda_2, ... [m]: as many as there are values before the gap.

    The gap after lambda_1 does not count: everything is one group there.
    """
    gaps = np.diff(values)
    return int(gaps[1:].argmax()) + 2 if len(gaps) > 1 else 2


def group_sums(matrix: torch.Tensor, labels: np.ndarray, count: int) -> np.ndarray:
    """The groups' indicators times A [n, n]: float64 [count, n].

    Rows are added in their order, in the matrix's own type: the result does not depend on threads, and takes one pass.
    """
    out = torch.zeros(count, len(labels), dtype=matrix.dtype)
    return out.index_add_(0, torch.from_numpy(labels), matrix).double().numpy()


def group_scores(products: np.ndarray, degree: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How much of its edges each group keeps inside, compared with chance: float64 [k], 0 = as by chance, 1 = all.

    (assoc / vol - share) / (1 - share) with assoc the weight inside the group, vol its volume, and share its part of
    the whole volume, which is what assoc / vol is where edges fall at random.

    Args:
        products: the groups' indicators times A [k, n]. degree: A 1 [n]. labels [n], every one of 0..k-1 present.
    """
    k = len(products)
    inside = np.array([products[c, labels == c].sum(dtype=np.float64) for c in range(k)])
    volume = np.bincount(labels, degree, minlength=k)
    share = volume / volume.sum()
    return np.clip((inside / volume - share) / np.maximum(1 - share, 1e-12), 0, 1)


def ncut_confidence(products: np.ndarray, degree: np.ndarray, labels: np.ndarray) -> float:
    """1 - Ncut / (k - 1), in 0..1: 0 = the groups are no better than random ones, 1 = no edge is cut.

    Ncut = sum over the groups of (cut / vol); random groups have k - 1.
    """
    k = len(products)
    if k < 2:
        return 0.0
    inside = np.array([products[c, labels == c].sum(dtype=np.float64) for c in range(k)])
    kept = float((inside / np.bincount(labels, degree, minlength=k)).sum())
    return float(np.clip((kept - 1) / (k - 1), 0, 1))


def indicators(labels: np.ndarray) -> np.ndarray:
    """Rows [k, n] float32, 1 where the label is c."""
    return (labels[None] == np.arange(labels.max() + 1)[:, None]).astype(np.float32)


def padded(scores: np.ndarray, length: int) -> np.ndarray:
    """Scores float32 [length]: entry i belongs to segment i + 1; 0 beyond the last."""
    out = np.zeros(length, np.float32)
    out[: len(scores)] = scores
    return out

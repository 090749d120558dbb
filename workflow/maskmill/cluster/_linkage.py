"""Average and Ward linkage of weighted items, and the cut of the tree into a number of clusters."""

from __future__ import annotations

from typing import Literal

import numpy as np

Linkage = Literal["average", "ward"]


def squared(x: np.ndarray) -> np.ndarray:
    """Squared Euclidean distances [m, m] float64 of x [m, d]; the diagonal is 0."""
    x = x.astype(np.float64)
    lengths = np.einsum("ij,ij->i", x, x)
    product = np.maximum(lengths[:, None] + lengths - 2 * (x @ x.T), 0)
    np.fill_diagonal(product, 0)
    return product


def merge(distance: np.ndarray, weights: np.ndarray, linkage: Linkage) -> tuple[np.ndarray, np.ndarray]:
    """All m - 1 merges of items by nearest-neighbour chains (Murtagh, 1983; Müllner, 2011), lowest first.

    As if item i were w_i equal points, in O(m^2) time. Both linkages are reducible, so that chains find the same tree
    as always joining the closest pair; of equal distances the lower index is taken.

    Args:
        distance: [m, m] symmetric, float; average: any distance, ward: squared Euclidean. It is not changed.
        weights: [m] > 0.

    Returns:
        pairs [m - 1, 2] of items, one of each merged set, and heights [m - 1] float64 (ward: the growth of the sum of
        squares).
    """
    d = np.array(distance, dtype=np.float64)
    w = weights.astype(np.float64)
    if linkage == "ward":
        d *= w[:, None] * w / (w[:, None] + w)
    np.fill_diagonal(d, np.inf)
    alive = np.ones(len(w), bool)
    chain: list[int] = []
    pairs, heights = [], []
    for _ in range(len(w) - 1):
        if not chain:
            chain = [int(np.flatnonzero(alive)[0])]
        while True:
            last = chain[-1]
            near = int(d[last].argmin())
            if len(chain) > 1 and d[last, chain[-2]] <= d[last, near]:
                near = chain[-2]
                break
            chain.append(near)
        a, b = sorted((last, near))
        chain = chain[:-2]
        pairs.append((a, b))
        heights.append(d[a, b])
        _join(d, w, alive, a, b, linkage)
    order = np.argsort(heights, kind="stable")
    return np.array(pairs, np.int64).reshape(-1, 2)[order], np.array(heights)[order]


def _join(d: np.ndarray, w: np.ndarray, alive: np.ndarray, a: int, b: int, linkage: Linkage) -> None:
    """The update of Lance and Williams: row a becomes the union of a and b; row b is no longer used."""
    if linkage == "average":
        row = (w[a] * d[a] + w[b] * d[b]) / (w[a] + w[b])
    else:
        row = ((w[a] + w) * d[a] + (w[b] + w) * d[b] - w * d[a, b]) / (w[a] + w[b] + w)
    alive[b] = False
    row[~alive] = np.inf
    row[a] = np.inf
    d[a], d[:, a] = row, row
    d[b], d[:, b] = np.inf, np.inf
    w[a] += w[b]


def cut(pairs: np.ndarray, clusters: int) -> np.ndarray:
    """Labels [m] int64 after the lowest m - clusters merges, numbered by their first item."""
    m = len(pairs) + 1
    root = np.arange(m)
    for a, b in pairs[: m - clusters]:
        a, b = _find(root, int(a)), _find(root, int(b))
        root[max(a, b)] = min(a, b)
    tops = np.array([_find(root, i) for i in range(m)])
    return np.unique(tops, return_inverse=True)[1].reshape(m)


def _find(root: np.ndarray, i: int) -> int:
    while root[i] != i:
        root[i] = root[root[i]]
        i = int(root[i])
    return i


def reduce_to(labels: np.ndarray, distance: np.ndarray, weights: np.ndarray, clusters: int) -> np.ndarray:
    """Merge clusters (labels [m], -1 stays) by average linkage of their distances [k, k] until `clusters` are left."""
    if len(weights) <= clusters:
        return labels
    table = np.append(cut(merge(distance, weights, "average")[0], clusters), -1)
    return table[labels]


def between(x: np.ndarray, weights: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean squared distances of the points of two clusters [k, k] float64, and weights [k], from x [m, d] alone."""
    inside = labels >= 0
    x, w, labels = x[inside].astype(np.float64), weights[inside].astype(np.float64), labels[inside]
    k = int(labels.max()) + 1
    total, sums, energy = np.zeros(k), np.zeros((k, x.shape[1])), np.zeros(k)
    np.add.at(total, labels, w)
    np.add.at(sums, labels, w[:, None] * x)
    np.add.at(energy, labels, w * np.einsum("ij,ij->i", x, x))
    means = sums / total[:, None]
    spread = energy / total - np.einsum("ij,ij->i", means, means)
    return squared(means) + spread[:, None] + spread, total

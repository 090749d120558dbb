"""Lloyd's iterations of k-means over an engine that labels points: the part that does not know where points lie.

The engines are `maskmill.numerics.lloyd_cpu.CpuEngine` and `maskmill.numerics.lloyd_torch.TorchEngine`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np


class Engine(Protocol):
    """Points that can be labelled with their closest centroid."""

    def step(self, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Centroids [k, d] float32 -> sums [k, d] float64 and counts [k] int64 of the points closest to each."""

    def farthest(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Distances [count] and points [count, d] farthest from their centroid."""


@dataclass
class Course:
    """Where the Lloyd iterations of one level ended."""

    centroids: np.ndarray  # [k, d] float32
    counts: np.ndarray  # [k] int64, of the last labelling
    inertia: float  # of that labelling about these centroids, sum of squared distances
    history: list[float]  # the same after each iteration
    converged: bool
    repaired: int


def lloyd(
    engine: Engine, start: np.ndarray, energy: float, spherical: bool, iterations: int, tolerance: float
) -> Course:
    """Lloyd iterations from centroids `start` [k, d].

    The inertia of a labelling about its own means needs no distances: energy - sum |S_k|^2 / n_k, and spherical
    energy + n - 2 sum |S_k|, with S_k the sum of a cluster's points.
    """
    centroids, repaired, converged = start, 0, False
    history: list[float] = []
    counts = np.zeros(len(start), np.int64)
    for _ in range(iterations):
        sums, counts = engine.step(centroids)
        inertia = _about_means(sums, counts, energy, spherical)
        moved, empty = _centres(sums, counts, centroids, spherical)
        if len(empty):
            moved[empty] = _refill(engine, moved[empty])
            repaired += len(empty)
        same = np.array_equal(moved, centroids)
        little = bool(history) and history[-1] - inertia <= tolerance * history[-1]
        history.append(inertia)
        centroids = moved
        if not len(empty) and (same or (little and tolerance > 0)):
            converged = True
            break
    return Course(centroids, counts, history[-1], history, converged, repaired)


def _about_means(sums: np.ndarray, counts: np.ndarray, energy: float, spherical: bool) -> float:
    squares = np.einsum("ij,ij->i", sums, sums)  # [k]
    if spherical:
        return max(energy + float(counts.sum()) - 2 * float(np.sqrt(squares).sum()), 0.0)
    return max(energy - float((squares / np.maximum(counts, 1)).sum()), 0.0)


def _centres(
    sums: np.ndarray, counts: np.ndarray, before: np.ndarray, spherical: bool
) -> tuple[np.ndarray, np.ndarray]:
    """New centroids [k, d] float32 and the indices of empty clusters; points that cancel out keep their centroid."""
    size = np.linalg.norm(sums, axis=1) if spherical else counts.astype(np.float64)
    usable = size > 0
    moved = np.where(usable[:, None], sums / np.where(usable, size, 1)[:, None], before).astype(np.float32)
    return moved, np.flatnonzero(counts == 0)


def _refill(engine: Engine, old: np.ndarray) -> np.ndarray:
    """New centroids for empty clusters: points far from their centroid, each far from those taken before it as well."""
    distance, points = engine.farthest(8 * len(old))
    new = old.copy()
    for slot in range(len(old)):
        row = int(distance.argmax())
        if distance[row] <= 0:
            break  # no point lies apart from its centroid: the cluster stays empty
        new[slot] = points[row]
        distance = np.minimum(distance, np.linalg.norm(points - points[row], axis=1))
    return new

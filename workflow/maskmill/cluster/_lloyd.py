"""The course of a k-means fit: seeds, levels of growing samples, Lloyd iterations, canonical order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from maskmill.cluster._points import Frame, Points, prepare
from maskmill.cluster._seeds import complete, plus_plus
from maskmill.cluster._two_level import two_level
from maskmill.numerics.blocks import one_thread
from maskmill.numerics.sampling import rng
from maskmill.store.codebook import Codebook

if TYPE_CHECKING:
    from maskmill.cluster.kmeans import Params, Source

SEED_POINTS = 32  # points a cluster that seeds are drawn from
TWO_LEVEL = 1000  # clusters beyond this are seeded in two levels
LEVEL_POINTS = 25  # points a cluster at the first level
SMALLEST_LEVEL = 10_000
SHRINK = 4  # each level has this many times the points of the one before
ROUGH = 3e-4  # tolerance of the levels before the last


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


def solve(source: Source, params: Params, seed: int, device: str) -> tuple[Codebook, dict[str, Any]]:
    """`maskmill.cluster.kmeans.fit`."""
    from maskmill.device import pick

    place = pick(device)
    with one_thread() as threads:
        points = prepare(source, params.spherical, threads)
        sizes = levels(points.count, params.clusters)
        sample = points.array if len(sizes) == 1 and points.array is not None else _sample(points, sizes[0], seed)
        starts = _seeds(points, sample, params, seed)
        rough = max(params.tolerance, ROUGH) if len(sizes) > 1 else params.tolerance
        first = _engines(place, params.clusters, threads)
        tried = [
            lloyd(first(sample), start, _energy(sample), params.spherical, params.iterations, rough) for start in starts
        ]
        best = min(tried, key=lambda course: course.inertia)
        repaired = best.repaired
        for size in sizes[1:]:
            whole = size == points.count
            subset = points.array if whole else _sample(points, size, seed)
            engine = first(subset) if subset is not None else Stream(points, params.clusters, first)
            energy = points.energy if whole else _energy(subset)
            tolerance = params.tolerance if whole else rough
            best = lloyd(engine, best.centroids, energy, params.spherical, params.iterations, tolerance)
            repaired += best.repaired
    inertias = np.array([points.frame.inertia(course.inertia) for course in tried])
    return _finish(best, points.frame, sizes, inertias, repaired)


def levels(count: int, clusters: int) -> list[int]:
    """Points of each level: the last has all; restarts run on the first."""
    sizes = [count]
    smallest = max(SMALLEST_LEVEL, LEVEL_POINTS * clusters)
    while sizes[0] // SHRINK >= smallest:
        sizes.insert(0, sizes[0] // SHRINK)
    return sizes


def _sample(points: Points, size: int, seed: int) -> np.ndarray:
    """`size` points drawn without replacement, in order [size, d]."""
    if size >= points.count:
        return points.take(np.arange(points.count))
    rows = rng(seed, "kmeans", "level", str(size)).choice(points.count, size, replace=False, shuffle=False)
    return points.take(np.sort(rows))


def _energy(x: np.ndarray | None) -> float:
    assert x is not None
    return float(np.einsum("ij,ij->", x, x, dtype=np.float64))


def _seeds(points: Points, sample: np.ndarray, params: Params, seed: int) -> list[np.ndarray]:
    """The first centroids [k, d] of each restart."""
    generators = [rng(seed, "kmeans", "restart", str(r)) for r in range(params.restarts)]
    size = min(len(sample), max(8192, SEED_POINTS * params.clusters))
    rows = np.sort(rng(seed, "kmeans", "seeds").choice(len(sample), size, replace=False, shuffle=False))
    pool = np.ascontiguousarray(sample[rows])
    if params.clusters > TWO_LEVEL:
        found = [two_level(pool, params.clusters, params.spherical, generator) for generator in generators]
    else:
        found = [pool[chosen] for chosen in plus_plus(pool, params.clusters, generators)]
    starts = []
    for start in found:
        starts.append(start if len(start) == params.clusters else complete(start, points.blocks(), params.clusters))
    return starts


def _engines(place: Any, clusters: int, threads: int) -> Any:
    """A function points [n, d] -> engine on the device, or on all of its kind."""
    if place.type == "cpu":
        from maskmill.cluster._cpu import CpuEngine

        return lambda x: CpuEngine(x, clusters, threads)
    from maskmill.cluster._torch import TorchEngine
    from maskmill.device import alike, memory_advice

    places = alike(place)

    def on_device(x: np.ndarray) -> TorchEngine:
        with memory_advice("cluster.max_fit_points", len(x)):
            return TorchEngine(x, clusters, places)

    return on_device


class Stream:
    """Points that do not fit into memory: every step reads them once."""

    def __init__(self, points: Points, clusters: int, make: Any) -> None:
        self.points, self.clusters, self.make = points, clusters, make
        self.centroids = np.zeros(0)

    def step(self, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See Engine."""
        self.centroids = centroids
        sums, counts = np.zeros(centroids.shape), np.zeros(self.clusters, np.int64)
        for block in self.points.blocks():
            s, n = self.make(block).step(centroids)
            sums, counts = sums + s, counts + n
        return sums, counts

    def farthest(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """See Engine."""
        distance, rows = np.zeros(0), np.zeros((0, self.points.depth), np.float32)
        for block in self.points.blocks():
            engine = self.make(block)
            engine.step(self.centroids)
            d, x = engine.farthest(count)
            distance, rows = np.concatenate([distance, d]), np.concatenate([rows, x])
            order = np.argsort(-distance, kind="stable")[:count]
            distance, rows = distance[order], rows[order]
        return distance, rows


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
    """Centroids for empty clusters: of the farthest points, each the one farthest also from those taken before it."""
    distance, points = engine.farthest(8 * len(old))
    new = old.copy()
    for slot in range(len(old)):
        row = int(distance.argmax())
        if distance[row] <= 0:
            break  # no point lies apart from its centroid: the cluster stays empty
        new[slot] = points[row]
        distance = np.minimum(distance, np.linalg.norm(points - points[row], axis=1))
    return new


def _finish(
    course: Course, frame: Frame, sizes: list[int], restarts: np.ndarray, repaired: int
) -> tuple[Codebook, dict[str, Any]]:
    """The codebook in its canonical order: largest cluster first, equals by centroid."""
    centroids = frame.restore(course.centroids.astype(np.float64)).astype(np.float32)
    order = np.lexsort([*centroids.T[::-1], -course.counts])
    history = np.array([frame.inertia(value) for value in course.history])
    diagnostics = {
        "iterations": len(history),
        "converged": course.converged,
        "levels": sizes,
        "restart_inertia": restarts,
        "history": history,
        "repaired": repaired,
    }
    stored = {key: np.atleast_1d(np.asarray(value, dtype=np.float64)) for key, value in diagnostics.items()}
    book = Codebook(centroids[order], course.counts[order], float(history[-1]), frame.spherical, stored)
    return book, diagnostics

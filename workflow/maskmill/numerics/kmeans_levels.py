"""A whole k-means fit: seeds, restarts, levels of growing samples, Lloyd iterations, and clusters ordered by size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from maskmill.numerics.blocks import one_thread
from maskmill.numerics.kmeans_stream import Stream
from maskmill.numerics.lloyd import Course, lloyd
from maskmill.numerics.points import CodedPoints, Frame, PreparedPoints, prepare
from maskmill.numerics.sampling import rng
from maskmill.numerics.seeds import complete, plus_plus
from maskmill.numerics.two_level import two_level
from maskmill.store.codebook import Codebook

if TYPE_CHECKING:
    from maskmill.numerics.kmeans_settings import Settings
    from maskmill.numerics.points import Source

SEED_POINTS = 32  # points a cluster that seeds are drawn from
TWO_LEVEL = 1000  # clusters beyond this are seeded in two levels
LEVEL_POINTS = 25  # points a cluster at the first level
SMALLEST_LEVEL = 10_000
SHRINK = 4  # each level has this many times the points of the one before
ROUGH = 3e-4  # tolerance of the levels before the last


def solve(source: Source, params: Settings, seed: int, device: str, key: str) -> tuple[Codebook, dict[str, Any]]:
    """`maskmill.numerics.kmeans.fit`."""
    from maskmill.device import pick

    place = pick(device)
    with one_thread() as threads:
        points = prepare(source, params.spherical, threads, key.partition(".")[0])
        sizes = levels(points.count, params.clusters)
        sample = points.array if len(sizes) == 1 and points.array is not None else _sample(points, sizes[0], seed)
        starts = _seeds(points, sample, params, seed, key)
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
            engine = first(subset) if subset is not None else _stream(source, points, params.clusters, first, threads)
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


def _sample(points: PreparedPoints, size: int, seed: int) -> np.ndarray:
    """`size` points drawn without replacement, in order [size, d]."""
    if size >= points.count:
        return points.take(np.arange(points.count))
    rows = rng(seed, "kmeans", "level", str(size)).choice(points.count, size, replace=False, shuffle=False)
    return points.take(np.sort(rows))


def _energy(x: np.ndarray | None) -> float:
    assert x is not None
    return float(np.einsum("ij,ij->", x, x, dtype=np.float64))


def _seeds(points: PreparedPoints, sample: np.ndarray, params: Settings, seed: int, key: str) -> list[np.ndarray]:
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
        starts.append(
            start if len(start) == params.clusters else complete(start, points.blocks(), params.clusters, key)
        )
    return starts


def _engines(place: Any, clusters: int, threads: int) -> Any:
    """A function that makes an engine of points [n, d], on the CPU or on all CUDA devices of one kind."""
    if place.type == "cpu":
        from maskmill.numerics.lloyd_cpu import CpuEngine

        return lambda x: CpuEngine(x, clusters, threads)
    from maskmill.device import alike, memory_advice
    from maskmill.numerics.lloyd_torch import TorchEngine

    places = alike(place)

    def on_device(x: np.ndarray) -> TorchEngine:
        with memory_advice("cluster.max_fit_points", len(x)):
            return TorchEngine(x, clusters, places)

    return on_device


def _stream(source: Source, points: PreparedPoints, clusters: int, make: Any, threads: int) -> Stream:
    """An engine of points that do not fit into memory; of codes it needs no vectors."""
    from maskmill.numerics.lloyd_codes import CodedStream, fits

    if isinstance(source, CodedPoints) and fits(source.codec, clusters):
        return CodedStream(source, points, clusters, make, threads)
    return Stream(points, clusters, make)


def _finish(
    course: Course, frame: Frame, sizes: list[int], restarts: np.ndarray, repaired: int
) -> tuple[Codebook, dict[str, Any]]:
    """The codebook: largest cluster first, clusters of one size in the lexicographic order of their centroids."""
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

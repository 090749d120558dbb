"""Seeds for very many clusters: few coarse clusters first, then k-means++ inside each of them.

For each of k seeds k-means++ passes once over its 32 k points, which takes about k^2 steps. Two levels of about
sqrt(k) seeds take about k^1.5 steps. The iterations that start from the seeds are exact in both cases.
"""

from __future__ import annotations

from math import isqrt

import numpy as np

from maskmill.numerics.lloyd import lloyd
from maskmill.numerics.lloyd_cpu import CpuEngine
from maskmill.numerics.seeds import plus_plus

COARSE_POINTS = 8192  # points at least that the coarse seeds are drawn from
ITERATIONS = 20


def two_level(x: np.ndarray, clusters: int, spherical: bool, generator: np.random.Generator) -> np.ndarray:
    """At most `clusters` distinct points of `x` [m, d] (prepared) to start from, fewer where x has too few.

    A coarse cluster gets seeds in proportion to its share of the inertia.
    """
    groups = isqrt(clusters)
    size = min(len(x), max(COARSE_POINTS, 32 * groups))
    some = np.ascontiguousarray(x[np.sort(generator.choice(len(x), size, replace=False, shuffle=False))])
    start = some[plus_plus(some, groups, [generator])[0]]
    if len(start) < 2:
        return x[plus_plus(x, clusters, [generator])[0]]
    engine = CpuEngine(x, len(start), 1)
    energy = float(np.einsum("ij,ij->", x, x, dtype=np.float64))
    coarse = lloyd(engine, start, energy, spherical, ITERATIONS, 1e-3)
    engine.step(coarse.centroids)
    labels = engine.labels
    distance = np.linalg.norm(x - coarse.centroids[labels], axis=1)
    mass = np.bincount(labels, distance.astype(np.float64) ** 2, len(start))
    shares = allot(mass, np.bincount(labels, minlength=len(start)), clusters)
    found = []
    for group, share in enumerate(shares.tolist()):
        if share:
            mine = np.ascontiguousarray(x[labels == group])
            found.append(mine[plus_plus(mine, share, [generator])[0]])
    return np.concatenate(found)


def allot(mass: np.ndarray, sizes: np.ndarray, total: int) -> np.ndarray:
    """Shares [g] int64 of `total` in proportion to `mass` [g], at least 1 and at most `sizes` [g] (0 where that is 0).

    Their sum is `total` (at least g) where the sizes allow it. While shares are missing, the group whose share is
    farthest below its proportion gets one more; while there are too many, the one farthest above it loses one.
    """
    wanted = mass / max(float(mass.sum()), 1e-300) * total
    shares = np.clip(np.floor(wanted).astype(np.int64), np.minimum(1, sizes), sizes)
    while shares.sum() < min(total, sizes.sum()):
        shares[np.where(shares < sizes, wanted - shares, -np.inf).argmax()] += 1
    while shares.sum() > total:
        shares[np.where(shares > 1, wanted - shares, np.inf).argmin()] -= 1
    return shares

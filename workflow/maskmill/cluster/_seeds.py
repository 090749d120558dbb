"""k-means++ seeds: each next one is drawn with probability proportional to the squared distance to those before."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from maskmill.errors import NumericsError

SAME = 1e-6  # squared distances below this share of the squared lengths are rounding: the points are the same


def plus_plus(x: np.ndarray, clusters: int, generators: list[np.random.Generator]) -> list[np.ndarray]:
    """Seed rows of `x` [m, d] for several restarts in lockstep, one generator each: one product a seed serves all.

    A restart stops early, with fewer rows, when no point is apart from its seeds.
    """
    points = torch.from_numpy(x)  # [m, d]
    lengths = points.square().sum(1)  # [m]
    closest = torch.full((len(generators), len(x)), torch.inf)  # [R, m]
    chosen = np.array([[generator.integers(len(x)) for generator in generators]])  # [1, R]
    done = np.full(len(generators), clusters)
    for size in range(1, clusters):
        rows = torch.from_numpy(chosen[-1])
        square = lengths[None] + lengths[rows, None]  # [R, m]
        apart = torch.addmm(square, points[rows], points.T, alpha=-2)
        apart[apart < SAME * square] = 0
        closest = torch.minimum(closest, apart)
        mass = closest.double().cumsum(1).numpy()  # [R, m]
        picks = []
        for r, generator in enumerate(generators):
            if mass[r, -1] <= 0:
                done[r] = min(done[r], size)
            target = generator.random() * mass[r, -1]
            picks.append(min(int(np.searchsorted(mass[r], target, side="right")), len(x) - 1))
        chosen = np.concatenate([chosen, [picks]])
    return [chosen[: done[r], r] for r in range(len(generators))]


def complete(seeds: np.ndarray, blocks: Iterable[np.ndarray], clusters: int) -> np.ndarray:
    """Fill seeds [s, d] up to `clusters` with further distinct points, in order.

    Raises:
        NumericsError: there are fewer distinct points than clusters.
    """
    known = {row.tobytes() for row in seeds + np.float32(0)}  # + 0 makes -0 equal to 0
    found = list(seeds)
    for block in blocks:
        for row in block + np.float32(0):
            if len(found) >= clusters:
                return np.stack(found)
            key = row.tobytes()
            if key not in known:
                known.add(key)
                found.append(row)
    if len(found) < clusters:
        raise NumericsError(
            f"cluster.clusters: {clusters} clusters for {len(found)} distinct vectors; "
            f"set cluster.clusters to {max(2, len(found))} or less, or use more images"
        )
    return np.stack(found)

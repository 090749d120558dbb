"""k-means++ seeds: each next one is drawn with probability proportional to the squared distance to those before."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from maskmill.errors import NumericsError

GREEDY = 512  # clusters up to which several draws compete for each seed
SAME = 1e-6  # squared distances below this share of the squared lengths are rounding: the points are the same


def plus_plus(x: np.ndarray, clusters: int, generators: list[np.random.Generator]) -> list[np.ndarray]:
    """Seed rows of `x` [m, d] for several restarts, one generator each; one matrix product a seed serves all of them.

    Greedy for few clusters, as its authors advise: of several draws, the one that lowers the sum of squared distances
    most. A restart stops early, with fewer rows, when no point is apart from its seeds.
    """
    points = torch.from_numpy(x)  # [m, d]
    lengths = points.square().sum(1)  # [m]
    restarts, trials = len(generators), 2 + int(np.log(clusters)) if clusters <= GREEDY else 1
    chosen = [np.array([generator.integers(len(x)) for generator in generators])]  # [R] a seed
    closest = _apart(points, lengths, chosen[0])  # [R, m]
    done = np.full(restarts, clusters)
    for size in range(1, clusters):
        draws = np.zeros((restarts, trials), np.int64)
        for r, generator in enumerate(generators):
            mass = closest[r].double().cumsum(0).numpy()  # [m]
            if mass[-1] <= 0:
                done[r] = min(done[r], size)
            draws[r] = np.searchsorted(mass, generator.random(trials) * mass[-1], side="right")
        draws = np.minimum(draws, len(x) - 1)
        after = torch.minimum(closest[:, None], _apart(points, lengths, draws.ravel()).view(restarts, trials, -1))
        best = after.sum(2, dtype=torch.float64).argmin(1)  # [R]
        closest = after[torch.arange(restarts), best]
        chosen.append(draws[np.arange(restarts), best.numpy()])
    return [np.array([row[r] for row in chosen[: done[r]]]) for r in range(restarts)]


def _apart(points: torch.Tensor, lengths: torch.Tensor, rows: np.ndarray) -> torch.Tensor:
    """Squared distances of all points to some of them [rows, m]; rounding is 0."""
    some = torch.from_numpy(rows)
    square = lengths[None] + lengths[some, None]  # [rows, m]
    apart = torch.addmm(square, points[some], points.T, alpha=-2)
    return apart.masked_fill_(apart < SAME * square, 0)


def complete(seeds: np.ndarray, blocks: Iterable[np.ndarray], clusters: int, key: str) -> np.ndarray:
    """Fill seeds [s, d] up to `clusters` with further distinct points, in order.

    Args:
        key: the key of the configuration that says `clusters`, for messages.

    Raises:
        NumericsError: there are fewer distinct points than clusters.
    """
    known = {row.tobytes() for row in seeds + np.float32(0)}  # + 0 makes -0 equal to 0
    found = list(seeds)
    for block in blocks:
        for row in block + np.float32(0):
            if len(found) >= clusters:
                return np.stack(found)
            content = row.tobytes()
            if content not in known:
                known.add(content)
                found.append(row)
    if len(found) < clusters:
        raise NumericsError(
            f"{key}: {clusters} clusters for {len(found)} distinct vectors; "
            f"set {key} to {max(2, len(found))} or less, or use more images"
        )
    return np.stack(found)

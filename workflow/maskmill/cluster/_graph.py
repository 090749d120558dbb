"""Graphs of nodes: nearest neighbours, self-tuning weights, and communities of a wanted number."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from maskmill.errors import NumericsError, UserError

if TYPE_CHECKING:
    from scipy.sparse import csr_array

BLOCK_BYTES = 64 << 20  # distances held at once
FINEST = 1e4  # largest scale that is tried for a wanted number of communities
STEPS = 24  # halvings of the scale's logarithm


def neighbours(x: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The `count` nearest others of each of x [m, d] float32, exact: index and squared distance, each [m, count]."""
    import torch

    points = torch.from_numpy(np.ascontiguousarray(x, np.float32))
    lengths = points.square().sum(1)
    index, distance = np.empty((len(x), count), np.int64), np.empty((len(x), count))
    step = max(1, BLOCK_BYTES // (4 * len(x)))
    for start in range(0, len(x), step):
        some = points[start : start + step]
        apart = torch.addmm(lengths + lengths[start : start + step, None], some, points.T, alpha=-2).clamp_min_(0)
        apart[torch.arange(len(some)), torch.arange(start, start + len(some))] = torch.inf
        near = apart.topk(count, dim=1, largest=False, sorted=True)
        index[start : start + step], distance[start : start + step] = near.indices.numpy(), near.values.numpy()
    return index, distance


def affinity(x: np.ndarray, count: int) -> csr_array:
    """Symmetric weights [m, m] of nodes that are among the `count` nearest of one another, in either direction.

    exp(-d_ij^2 / (s_i s_j)) with s_i the distance of i to its last neighbour: Zelnik-Manor and Perona, Self-tuning
    spectral clustering (2004). It has no unit, so one setting serves both geometries.
    """
    from scipy.sparse import coo_array

    m, count = len(x), min(count, len(x) - 1)
    index, distance = neighbours(x, count)
    scale = np.sqrt(distance[:, -1])
    scale = np.maximum(scale, 1e-3 * max(float(np.median(scale)), 1e-12))  # copies up to rounding have none
    rows = np.repeat(np.arange(m), count)
    columns = index.ravel()
    weight = np.exp(-distance.ravel() / (scale[rows] * scale[columns]))
    one_way = coo_array((weight, (rows, columns)), shape=(m, m)).tocsr()
    return one_way.maximum(one_way.T).tocsr()


def leiden(weights: csr_array, seed: int, trials: int) -> Callable[[float], np.ndarray]:
    """A function resolution -> communities [m] of a symmetric graph [m, m], the best of `trials` by modularity.

    Traag, Waltman and van Eck, From Louvain to Leiden (2019); igraph's, until nothing moves.
    """
    import random

    igraph = optional("igraph", "leiden")
    from scipy.sparse import triu

    upper = triu(weights, k=1).tocoo()
    links = np.stack([upper.row, upper.col], axis=1)
    graph = igraph.Graph(n=weights.shape[0], edges=links)
    values = upper.data.tolist()

    def partition(resolution: float) -> np.ndarray:
        igraph.set_random_number_generator(random.Random(seed))
        found = [
            graph.community_leiden("modularity", weights=values, resolution=resolution, n_iterations=-1)
            for _ in range(trials)
        ]
        scores = [
            graph.modularity(f.membership, weights=values, resolution=resolution) if values else 0.0 for f in found
        ]
        return numbered(np.array(found[int(np.argmax(scores))].membership))

    return partition


def infomap(weights: csr_array, seed: int, trials: int, preferred: int | None = None) -> Callable[[float], np.ndarray]:
    """A function scale -> communities [m] of a symmetric graph [m, m]: two-level Infomap at markov time 1 / scale.

    Rosvall and Bergstrom, Maps of random walks on complex networks reveal community structure (2008). The best of
    `trials`; a node without links is a community of its own. `preferred`: a number of communities that Infomap prefers,
    at the cost of a longer code.
    """
    package = optional("infomap", "infomap")
    from scipy.sparse import triu

    upper, m = triu(weights, k=1).tocoo(), weights.shape[0]
    links = list(zip(upper.row.tolist(), upper.col.tolist(), upper.data.tolist(), strict=True))

    def partition(scale: float) -> np.ndarray:
        graph = package.Network()
        graph.add_links(links)
        wish = {} if preferred is None else {"preferred_number_of_modules": preferred}
        chosen = package.Options(
            two_level=True, markov_time=1 / scale, seed=seed % 2**31 + 1, num_trials=trials, silent=True, **wish
        )
        labels = -1 - np.arange(m)
        for node, module in package.run(graph, options=chosen).modules().items():
            labels[node] = module
        return numbered(labels)

    return partition


def wanted(partition: Callable[[float], np.ndarray], clusters: int, start: float = 1.0) -> tuple[np.ndarray, float]:
    """Communities at the smallest scale found that gives at least `clusters` of them, and that scale.

    Larger scales mostly give more communities, but not always, so a few more than `clusters` may be found.

    Raises:
        NumericsError: even the finest partition has fewer.
    """
    high, best = start, partition(start)
    while communities(best) < clusters:
        if high >= FINEST:
            raise NumericsError(
                f"cluster.clusters: the graph falls into {communities(best)} communities at most, {clusters} are "
                "wanted; lower cluster.clusters or raise cluster.fine"
            )
        high *= 4
        best = partition(high)
    low, found = high / 4, high
    if found == start:  # go down until there are too few
        while communities(best) > clusters and low >= 1 / FINEST:
            labels = partition(low)
            if communities(labels) < clusters:
                break
            best, found, low = labels, low, low / 4
    for _ in range(STEPS):
        if communities(best) == clusters:
            break
        middle = float(np.sqrt(low * found))
        labels = partition(middle)
        if communities(labels) >= clusters:
            best, found = labels, middle
        else:
            low = middle
    return best, found


def communities(labels: np.ndarray) -> int:
    """How many there are."""
    return int(labels.max()) + 1


def numbered(labels: np.ndarray) -> np.ndarray:
    """The same partition [m] with communities numbered by their first node."""
    values, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.empty(len(values), np.int64)
    rank[np.argsort(first)] = np.arange(len(values))
    return rank[inverse.reshape(-1)]


def optional(package: str, method: str) -> Any:
    """An optional package; its absence is a UserError that says how to install it."""
    import importlib

    try:
        return importlib.import_module(package)
    except ImportError:
        raise UserError(f"cluster: {missing(package, method)}") from None


def installed(package: str, method: str) -> None:
    """Raise a ValueError, which becomes a ConfigError before any job runs, where a package is missing."""
    import importlib.util

    if importlib.util.find_spec(package) is None:
        raise ValueError(missing(package, method))


def missing(package: str, method: str) -> str:
    """What to say of a missing package."""
    return f"{method} needs the package {package}, which is not installed; install it with: pip install {package}"

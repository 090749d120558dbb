"""The neighbour graph of centroids, and what labels spread over it.

Harmonic functions: Zhu, Ghahramani and Lafferty, "Semi-Supervised Learning Using Gaussian Fields and Harmonic
Functions" (ICML 2003). Labels are not clamped: each labelled node hangs on its own votes by as much weight as there is
evidence (their section 4), so that one doubtful vote gives way to its neighbourhood and a thousand do not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from maskmill.numerics.neighbours import NeighbourIndex

if TYPE_CHECKING:
    import scipy.sparse as sp

DIRECT = 3000  # nodes up to which the system is factorised; beyond, conjugate gradients
RESIDUAL = 1e-8  # of the conjugate gradients, relative
FAINTEST = 1e-9  # weight of an edge, so that none vanishes in float64


def index_of(centroids: np.ndarray, spherical: bool) -> NeighbourIndex:
    """The centroids [m, d] as points whose neighbours are asked for."""
    return NeighbourIndex.of(centroids, "cosine" if spherical else "euclidean", "taxonomy")


def unlikeness(index: NeighbourIndex, distances: np.ndarray) -> np.ndarray:
    """Distances of an index on one scale for both geometries, that of 1 - cosine.

    Euclidean distances are squared, halved, and divided by the centroids' mean squared length about their mean: for
    centred vectors of equal length, that is 1 - cosine.
    """
    if index.metric == "cosine":
        return distances
    spread = float(np.einsum("ij,ij->", index.ready, index.ready, dtype=np.float64)) / max(len(index), 1)
    return np.asarray(distances.astype(np.float64) ** 2 / (2 * max(spread, np.finfo(np.float64).tiny)))


def centroid_graph(index: NeighbourIndex, neighbours: int, width: float, seed: int = 0) -> sp.csr_array:
    """Symmetric weights [m, m] exp(-unlikeness / width) between each centroid and its nearest others.

    Args:
        neighbours: of each centroid; an edge is there when either end counts the other.
    """
    import scipy.sparse as sp

    count = len(index)
    found, distances = index.graph(min(neighbours + 1, count), seed)
    weight = np.maximum(np.exp(-unlikeness(index, distances[:, 1:]) / width), FAINTEST)
    rows = np.repeat(np.arange(count), found.shape[1] - 1)
    one_way = sp.csr_array((weight.ravel(), (rows, found[:, 1:].ravel())), shape=(count, count))
    return sp.csr_array(one_way.maximum(one_way.T))


def harmonic(
    graph: sp.csr_array, values: np.ndarray, weight: np.ndarray, smoothing: float, leak: float = 0.0
) -> np.ndarray:
    """Values that labelled nodes spread over a graph: [m, K] float64.

    They minimise sum_i weight_i |f_i - values_i|^2 + smoothing (sum_ij w_ij |f_i - f_j|^2 / 2 + leak sum_i d_i |f_i|^2)
    with d_i the degree. A walker leaves the graph at each step with probability leak / (1 + leak), so that f of a value
    that is 1 everywhere is the probability to meet a label first. Without a leak and with large weights it is the
    harmonic function. Nodes that no label reaches are 0.

    Args:
        graph: symmetric weights [m, m]. values: [m, K], read where `weight` [m] is above 0. smoothing: above 0.
    """
    import scipy.sparse as sp
    from scipy.sparse.csgraph import connected_components

    _, part = connected_components(graph, directed=False)
    rows = np.flatnonzero(np.isin(part, part[weight > 0]))
    out = np.zeros(values.shape)
    if not len(rows):
        return out
    inside = sp.csr_array(graph[rows][:, rows], dtype=np.float64)
    degree = np.asarray(inside.sum(axis=1)).ravel()
    pull = weight[rows].astype(np.float64)
    system = sp.csr_array(sp.diags_array(pull + smoothing * (1 + leak) * degree) - smoothing * inside)
    out[rows] = _solve(system, pull[:, None] * values[rows])
    return out


def _solve(system: sp.csr_array, right: np.ndarray) -> np.ndarray:
    """The solution [m, K] of a symmetric positive definite system."""
    import scipy.sparse as sp
    from scipy.sparse.linalg import cg, splu

    if len(right) <= DIRECT:
        return np.asarray(splu(system.tocsc()).solve(right))
    inverse = sp.diags_array(1 / system.diagonal())
    columns = [cg(system, column, rtol=RESIDUAL, M=inverse)[0] for column in right.T]
    return np.stack(columns, axis=1)

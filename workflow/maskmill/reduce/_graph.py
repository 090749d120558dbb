"""What the reductions on a neighbour graph share: the sample that they are fitted on, and eigenvectors of the graph."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import numpy as np
import scipy.sparse as sp

from maskmill.errors import NumericsError

DENSE_NODES = 1000  # graphs up to here are solved densely
BASE_BYTES = 800 << 20  # of the process: Python, torch, numba, a block of scores


def sample(
    blocks: Callable[[], Iterator[np.ndarray]],
    least: int,
    need: Callable[[int], float],
    memory_gb: float,
    key: str = "neighbours",
) -> np.ndarray:
    """The distinct rows [n, d] float32 of the fit, in their order; equal rows count once.

    Args:
        least: the value of the parameter `key`, which the number of distinct rows must exceed.
        need: bytes of memory that the fit takes a row of length d. memory_gb: refuse more than this in advance.

    Raises:
        NumericsError: NaN, no rows, all rows equal, no more distinct rows than `least`, or too many for the memory.
    """
    parts = list(blocks())
    if not parts or not sum(map(len, parts)):
        raise NumericsError("reduce: there are no vectors to fit on; check that the cut finds segments")
    count = sum(map(len, parts))
    check_memory(count, parts[0].shape[1], need(parts[0].shape[1]), memory_gb)
    x = np.concatenate(parts).astype(np.float32, copy=False)
    if not np.isfinite(x).all():
        raise NumericsError("reduce: the vectors hold NaN or infinite values; check the features that made them")
    first = np.sort(np.unique(_keys(x), return_index=True)[1])
    if len(first) == 1 and count > 1:
        raise NumericsError(f"reduce: all {count} vectors are equal; check the features that made them")
    if len(first) <= least:
        raise NumericsError(
            f"reduce.{key}: {least} {key} need more than the {len(first)} distinct vectors of the fit "
            f"(of {count}); set reduce.{key} to {max(2, len(first) // 3)}, or take more images"
        )
    if len(first) < count:
        print(f"reduce: {count - len(first)} of {count} vectors repeat others and count once", file=sys.stderr)
    return x if len(first) == count else x[first]


def check_memory(count: int, d: int, bytes_a_row: float, memory_gb: float) -> None:
    """Refuse a fit on `count` vectors of length d that needs more than `memory_gb` GiB (NumericsError)."""
    room = memory_gb * 2**30 - BASE_BYTES
    if count * bytes_a_row > room:
        raise NumericsError(
            f"reduce.max_fit_points: a fit on {count} vectors of length {d} needs about "
            f"{(count * bytes_a_row + BASE_BYTES) / 2**30:.1f} GiB and reduce.memory_gb is {memory_gb:g}; "
            f"{max(0, int(room / bytes_a_row))} vectors fit"
        )


def numba_threads() -> None:
    """Give numba as many threads as torch has, because pynndescent leaves it with one."""
    import numba
    import torch

    numba.set_num_threads(min(torch.get_num_threads(), int(vars(numba.config)["NUMBA_NUM_THREADS"])))


def _keys(x: np.ndarray) -> np.ndarray:
    """One opaque value for each row, [n]; equal rows have equal values, and -0 equals 0."""
    rows = np.ascontiguousarray(x + np.float32(0))
    return rows.view(np.dtype((np.void, rows.shape[1] * 4))).ravel()


def components(graph: sp.csr_array) -> tuple[int, np.ndarray]:
    """Number of connected parts and the part [n] of each node, largest first (of equals, the one of the lower node)."""
    count, part = sp.csgraph.connected_components(graph, directed=False)
    order = np.argsort(-np.bincount(part, minlength=count), kind="stable")
    rank = np.empty(count, np.int64)
    rank[order] = np.arange(count)
    return int(count), rank[part]


def eigenmaps(graph: sp.csr_array, dimensions: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Leading eigenvectors of the random walk P = D^-1 W, those of the normalised Laplacian times D^-1/2.

    Args:
        graph: W [n, n], symmetric, not negative, no diagonal, every node with an edge.

    Returns:
        vectors [n, dimensions] float64 with sum_i d_i y_ia y_ib = sum_i d_i if a = b, else 0, so that the first of a
        connected graph is 1; its eigenvalues mu [dimensions] of P, largest first (1 - mu is the Laplacian's). A graph
        of c parts has mu = 1 c times: these vectors are constant on one part each, the largest first, 0 elsewhere.
        The largest entry of every vector is positive.

    Raises:
        NumericsError: more parts than dimensions, more dimensions than nodes, or the solver does not converge.
    """
    n = graph.shape[0]
    if dimensions >= n:
        raise NumericsError(f"reduce.dimensions: {dimensions} needs more than the {n} distinct vectors of the fit")
    count, part = components(graph)
    if count > dimensions:
        raise NumericsError(
            f"reduce.neighbours: the neighbour graph falls into {count} parts, more than reduce.dimensions "
            f"({dimensions}) can tell apart; raise reduce.neighbours (or reduce.dimensions)"
        )
    if count > 1:
        print(f"reduce: the graph falls into {count} parts; the first vectors tell them apart", file=sys.stderr)
    degree = np.asarray(graph.sum(axis=1)).ravel()
    root = np.sqrt(degree)
    known = np.zeros((n, count))  # eigenvectors of mu = 1
    known[np.arange(n), part] = root
    known /= np.linalg.norm(known, axis=0)
    scaled = sp.diags_array(1 / root) @ graph @ sp.diags_array(1 / root)
    values, vectors = _leading(sp.csr_array(scaled), known, dimensions - count, seed)
    y = np.concatenate([known, vectors], 1) * np.sqrt(degree.sum()) / root[:, None]
    signs = np.sign(y[np.abs(y).argmax(axis=0), np.arange(dimensions)])
    return y * signs, np.concatenate([np.ones(count), values])


def _leading(matrix: sp.csr_array, known: np.ndarray, k: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The k largest eigenpairs of a symmetric matrix with eigenvalues in [-1, 1] beside the known ones of 1."""
    from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

    from maskmill.numerics.sampling import rng

    n = matrix.shape[0]
    if k == 0:
        return np.zeros(0), np.zeros((n, 0))
    if n <= DENSE_NODES or k > n // 3:
        values, vectors = np.linalg.eigh(matrix.toarray() - 2 * known @ known.T)  # the known go from 1 to -1
        return values[::-1][:k], vectors[:, ::-1][:, :k]

    draw = rng(seed, "eigenmaps")

    def solve(count: int, without: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        def times(v: np.ndarray) -> np.ndarray:
            v = v.ravel()
            return matrix @ v - 2 * (without @ (without.T @ v))

        operator = LinearOperator((n, n), matvec=times, dtype=np.float64)
        basis = min(n - 1, max(4 * count, 60))
        start = draw.standard_normal(n)
        return eigsh(operator, count, which="LA", v0=start, ncv=basis, tol=1e-8, maxiter=500)

    try:
        values, vectors = solve(k, known)
        while True:  # Lanczos sees one vector of a repeated eigenvalue: look again without those that are found
            value, vector = solve(1, np.concatenate([known, vectors], 1))
            if value[0] <= values.min() + 1e-8:
                break
            keep = np.argsort(-values, kind="stable")[:-1]
            values, vectors = np.append(values[keep], value), np.concatenate([vectors[:, keep], vector], 1)
    except ArpackNoConvergence as error:
        raise NumericsError(
            f"reduce: {len(error.eigenvalues)} of {k} eigenvectors of the neighbour graph converged; "
            "raise reduce.neighbours or lower reduce.dimensions"
        ) from None
    order = np.argsort(-values, kind="stable")
    return values[order], vectors[:, order]

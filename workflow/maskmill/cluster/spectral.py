"""Normalised spectral clustering of the nodes' nearest-neighbour graph.

Ng, Jordan and Weiss, On spectral clustering (2001), with the weights of Zelnik-Manor and Perona (2004): the leading
eigenvectors of D^-1/2 W D^-1/2, rows to unit length, k-means.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from maskmill.cluster import Traits
from maskmill.cluster._nodes import CountedParams, codebook_of, summarise
from maskmill.cluster._number import UpTo1000
from maskmill.errors import NumericsError
from maskmill.store.codebook import Codebook

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    from maskmill.cluster._auto import Fits
    from maskmill.numerics.points import Source

SEARCHED = 800  # nodes of a graph while the number of clusters is looked for
DENSE = 3000  # nodes up to which all eigenvectors are computed


TRAITS = Traits(counted=True)


class Params(CountedParams):
    """Parameters of spectral clustering."""

    clusters: UpTo1000 = Field(8, description="number of clusters k, and of eigenvectors; auto: chosen from the data")
    neighbours: int = Field(15, ge=2, le=1000, description="neighbours of a node in the graph")
    restarts: int = Field(10, ge=1, le=1000, description="seedings of k-means on the eigenvectors")
    fine: int = Field(2000, ge=2, le=20_000, description="nodes of the graph")
    fine_by: Literal["kmeans", "sample"] = Field(
        "sample", description="nodes are points drawn at random (they follow the density), or k-means centroids"
    )


def fit(source: Source, params: Params, seed: int, device: str = "auto") -> tuple[Codebook, dict[str, Any]]:
    """Cluster points; see `kmeans.fit` for the arguments. Every node weighs the same.

    Returns:
        a codebook of the nodes grouped into clusters, and diagnostics: nodes, eigenvalues (of the normalised weights,
        largest first; as many 1s as the graph has parts).

    Raises:
        NumericsError: NaN or infinite values, all vectors equal, fewer distinct ones than clusters, or eigenvectors
            that did not converge.
    """
    from maskmill.cluster import _graph
    from maskmill.numerics.blocks import one_thread

    nodes = summarise(source, params, seed, device, params.count)
    with one_thread():
        values, rows = embed(_graph.affinity(nodes.x, params.neighbours), params.count, seed)
    return codebook_of(nodes, divide(rows, params.restarts, seed), {"nodes": len(nodes), "eigenvalues": values})


def divide(rows: np.ndarray, restarts: int, seed: int) -> np.ndarray:
    """Clusters [m] of the leading eigenvectors [m, k] of nodes, as many as vectors: k-means of rows of unit length."""
    from maskmill.cluster import _graph
    from maskmill.numerics import kmeans
    from maskmill.store.codebook import assign

    own = kmeans.Settings(clusters=rows.shape[1], spherical=True, restarts=restarts)
    book, _ = kmeans.fit(rows, own, seed, "cpu")
    return _graph.numbered(assign(rows, book)[0])


def several(params: Params) -> Fits:
    """Codebooks of several numbers from the eigenvectors of one small graph; see `maskmill.cluster.Method`."""
    from maskmill.cluster import _auto, _graph

    small = params.model_copy(update={"fine": min(params.fine, SEARCHED)})

    def fits(x: np.ndarray, numbers: Sequence[int], seed: int) -> Iterable[Codebook]:
        nodes = summarise(x, small, seed, "cpu", max(numbers))
        rows = embed(_graph.affinity(nodes.x, params.neighbours), max(numbers), seed)[1]
        for k in numbers:
            yield codebook_of(nodes, divide(np.ascontiguousarray(rows[:, :k]), _auto.RESTARTS, seed), {})[0]

    return fits


def embed(weights: csr_array, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The `count` largest eigenvalues of D^-1/2 W D^-1/2 and its eigenvectors [m, count] float32, largest first.

    Args:
        weights: W [m, m], symmetric, with no empty row.
    """
    import torch
    from scipy.sparse import diags_array
    from scipy.sparse.linalg import ArpackError, eigsh

    from maskmill.numerics.sampling import rng

    scale = diags_array(1 / np.sqrt(np.asarray(weights.sum(axis=1)).ravel()))
    normal = (scale @ weights @ scale).tocsr()
    m = normal.shape[0]
    if m <= max(DENSE, 3 * count):
        values, vectors = (part.numpy() for part in torch.linalg.eigh(torch.from_numpy(normal.toarray())))
    else:
        try:
            values, vectors = eigsh(normal, count, which="LA", v0=rng(seed, "cluster", "spectral").standard_normal(m))
        except ArpackError as error:
            raise NumericsError(
                f"cluster: spectral: the eigenvectors of {m} nodes did not converge ({error}); set cluster.fine to "
                f"{DENSE} or less"
            ) from None
    order = np.argsort(-values, kind="stable")[:count]
    vectors = vectors[:, order]
    signs = np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(count)])
    return values[order], (vectors * signs).astype(np.float32)

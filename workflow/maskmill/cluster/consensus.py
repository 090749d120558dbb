"""Consensus of many k-means runs: points that are mostly in one cluster together belong together.

Evidence accumulation: Fred and Jain, Combining multiple clusterings using evidence accumulation (PAMI 2005); Monti et
al., Consensus clustering (2003). Each run sees a random share of the nodes and has a number of clusters of its own; how
often two nodes meet is their affinity, which normalised spectral clustering parts. The result depends little on any one
start: where k-means has many local optima of like inertia, this is what they agree on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from maskmill.cluster import Traits
from maskmill.cluster._nodes import CountedParams, codebook_of, summarise
from maskmill.cluster._number import UpTo1000
from maskmill.store.codebook import Codebook

if TYPE_CHECKING:
    from maskmill.cluster._auto import Fits
    from maskmill.cluster._nodes import Nodes
    from maskmill.numerics.points import Source


TRAITS = Traits(counted=True)


class Params(CountedParams):
    """Parameters of consensus clustering."""

    clusters: UpTo1000 = Field(8, description="number of clusters k; auto: chosen from the data, by k-means")
    runs: int = Field(200, ge=2, le=10_000, description="k-means runs that vote")
    most: float = Field(2.0, ge=1, le=100, description="a run has between k and `most` times k clusters, drawn evenly")
    share: float = Field(0.8, gt=0, le=1, description="share of the nodes that a run is fitted on, drawn anew")
    restarts: int = Field(20, ge=1, le=1000, description="seedings of k-means on the eigenvectors")
    fine: int = Field(2000, ge=2, le=5000, description="nodes that vote; no more points than this: each is a node")


def fit(source: Source, params: Params, seed: int, device: str = "auto") -> tuple[Codebook, dict[str, Any]]:
    """Cluster points; see `kmeans.fit` for the arguments. Every node weighs the same.

    Returns:
        a codebook of the nodes grouped into clusters, and diagnostics: nodes, agreement (mean affinity of two nodes of
        one cluster minus that of two of different ones; 1: all runs agree).

    Raises:
        NumericsError: NaN or infinite values, all vectors equal, or fewer distinct ones than clusters.
    """
    from scipy.sparse import csr_array

    from maskmill.cluster import _graph
    from maskmill.cluster.spectral import embed
    from maskmill.numerics import kmeans
    from maskmill.numerics.blocks import one_thread
    from maskmill.store.codebook import assign

    nodes = summarise(source, params, seed, device, params.count)
    with one_thread():
        affinity = meetings(nodes, params, seed)
        _, rows = embed(csr_array(affinity.astype(np.float64)), params.count, seed)
    own = kmeans.Settings(clusters=params.count, spherical=True, restarts=params.restarts)
    book, _ = kmeans.fit(rows, own, seed, "cpu")
    labels = _graph.numbered(assign(rows, book)[0])
    return codebook_of(nodes, labels, {"nodes": len(nodes), "agreement": agreement(affinity, labels)})


def several(params: Params) -> Fits:
    """Codebooks of several numbers, by single k-means runs; see `maskmill.cluster.Method`."""
    from maskmill.cluster import _auto

    return _auto.by_kmeans(params.spherical)


def meetings(nodes: Nodes, params: Params, seed: int) -> np.ndarray:
    """Share of the runs in which two nodes are in one cluster, [m, m] float32; 1 on the diagonal."""
    from maskmill.numerics import kmeans
    from maskmill.numerics.sampling import rng
    from maskmill.store.codebook import assign

    m, draws = len(nodes), rng(seed, "cluster", "consensus")
    size = min(m, max(params.count + 1, round(params.share * m)))
    together = np.zeros((m, m), np.float32)
    for run in range(params.runs):
        k = int(draws.integers(params.count, round(params.most * params.count) + 1))
        seen = np.sort(draws.choice(m, size, replace=False, shuffle=False))
        own = kmeans.Settings(clusters=min(k, size), spherical=params.spherical, restarts=1)
        book, _ = kmeans.fit(nodes.x[seen], own, int(rng(seed, "consensus", str(run)).integers(2**31)), "cpu")
        member = np.eye(len(book), dtype=np.float32)[assign(nodes.x, book)[0]]  # [m, k]
        together += member @ member.T
    return together / params.runs


def agreement(affinity: np.ndarray, labels: np.ndarray) -> float:
    """Mean affinity of pairs within clusters minus that of pairs between them; 0 where one of both kinds is absent."""
    same = labels[:, None] == labels[None]
    apart = ~same
    np.fill_diagonal(same, False)
    if not same.any() or not apart.any():
        return 0.0
    return float(affinity[same].mean(dtype=np.float64) - affinity[apart].mean(dtype=np.float64))

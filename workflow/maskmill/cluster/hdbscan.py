"""Clusters as dense parts of the nodes, at any density, the rest is noise: HDBSCAN.

Campello, Moulavi and Sander, Density-based clustering based on hierarchical density estimates (2013); scikit-learn's.
Distances lose their meaning in many dimensions: reduce the vectors first, to 20 dimensions or fewer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from maskmill.cluster import Traits
from maskmill.cluster._nodes import NodeParams, codebook_of, summarise
from maskmill.cluster._number import no_auto
from maskmill.errors import NumericsError
from maskmill.store.codebook import Codebook, assign

if TYPE_CHECKING:
    import numpy as np

    from maskmill.cluster._nodes import Nodes
    from maskmill.numerics.points import Source


TRAITS = Traits(finds_number=True)


class Params(NodeParams):
    """Parameters of HDBSCAN."""

    clusters: Annotated[int | None, no_auto("null lets this one find its number")] = Field(
        None, ge=2, le=20_000, description="at most this many clusters: more are merged; null: as many as are found"
    )
    min_cluster_size: int = Field(20, ge=2, description="nodes of the smallest cluster")
    min_samples: int | None = Field(
        None, ge=1, description="nodes within the core distance; null: as many as min_cluster_size. More: more noise"
    )
    selection: Literal["eom", "leaf"] = Field("eom", description="eom: most stable clusters; leaf: small ones")
    noise: Literal["nearest", "ignore"] = Field(
        "nearest", description="what lies outside: of the cluster of its nearest node, or of none (ignore in masks)"
    )
    fine: int = Field(5000, ge=2, le=20_000, description="nodes that are clustered")
    fine_by: Literal["kmeans", "sample"] = Field(
        "sample", description="nodes are points drawn at random (they follow the density), or k-means centroids"
    )


def fit(source: Source, params: Params, seed: int, device: str = "auto") -> tuple[Codebook, dict[str, Any]]:
    """Cluster points; see `kmeans.fit` for the arguments. Spherical: Euclidean distances of unit vectors.

    Returns:
        a codebook of the nodes grouped into clusters, and diagnostics: nodes, found (clusters before any were merged),
        noise (share of the nodes outside all of them).

    Raises:
        NumericsError: NaN or infinite values, all vectors equal, fewer distinct ones than clusters or than
            min_cluster_size, or no cluster among them.
    """
    from sklearn.cluster import HDBSCAN

    from maskmill.cluster import _graph
    from maskmill.cluster._linkage import between, reduce_to

    nodes = summarise(source, params, seed, device, params.clusters)
    needed = max(params.min_cluster_size, params.min_samples or 0)
    if needed > len(nodes):
        raise NumericsError(
            f"cluster.min_cluster_size: clusters of {needed} nodes among {len(nodes)}; "
            "lower it (and cluster.min_samples), or use more images"
        )
    model = HDBSCAN(
        min_cluster_size=params.min_cluster_size,
        min_samples=params.min_samples,
        cluster_selection_method=params.selection,
        n_jobs=1,
        copy=True,
    )
    labels = model.fit(nodes.x.astype("float64")).labels_
    outside = labels < 0
    if outside.all():
        raise NumericsError(
            f"cluster: hdbscan finds no cluster of {params.min_cluster_size} among {len(nodes)} nodes; lower "
            "cluster.min_cluster_size or cluster.min_samples, or reduce the vectors to fewer dimensions"
        )
    labels[~outside] = _graph.numbered(labels[~outside])
    found = _graph.communities(labels)
    if params.clusters is not None:
        labels = reduce_to(labels, *between(nodes.x, nodes.counts, labels), params.clusters)
    if params.noise == "nearest":
        labels = _to_nearest(nodes, labels)
    return codebook_of(nodes, labels, {"nodes": len(nodes), "found": found, "noise": outside.mean()})


def _to_nearest(nodes: Nodes, labels: np.ndarray) -> np.ndarray:
    """Noise nodes get the label of the nearest node that has one."""
    inside = labels >= 0
    if inside.all():
        return labels
    near = assign(nodes.raw[~inside], Codebook(nodes.raw[inside], nodes.counts[inside], 0.0, nodes.spherical))[0]
    labels = labels.copy()
    labels[~inside] = labels[inside][near]
    return labels

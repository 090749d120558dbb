"""Communities of a nearest-neighbour graph by the Leiden method, to a resolution or to a number of clusters.

Traag, Waltman and van Eck, From Louvain to Leiden (2019), with modularity and self-tuning weights. Communities may be
of any size and shape, so that large classes are not split as k-means does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, model_validator

from maskmill.cluster import Traits
from maskmill.cluster._graph import installed
from maskmill.cluster._nodes import NodeParams, codebook_of, summarise
from maskmill.cluster._number import no_auto
from maskmill.store.codebook import Codebook

if TYPE_CHECKING:
    from maskmill.numerics.points import Source


TRAITS = Traits()


class Params(NodeParams):
    """Parameters of Leiden communities."""

    clusters: Annotated[int | None, no_auto("null lets this one find its number")] = Field(
        None, ge=2, le=20_000, description="number of clusters, by bisection of the resolution; null: from the data"
    )
    resolution: float = Field(1.0, gt=0, description="without a number of clusters: larger gives more communities")
    neighbours: int = Field(15, ge=2, le=1000, description="neighbours of a node in the graph")
    trials: int = Field(5, ge=1, le=1000, description="runs of the method; the one of highest modularity is kept")

    @model_validator(mode="after")
    def _sound(self) -> Params:
        if self.clusters is not None and self.fine < self.clusters:
            raise ValueError(f"fine must be at least clusters ({self.clusters})")
        installed("igraph", "leiden")
        return self


def fit(source: Source, params: Params, seed: int, device: str = "auto") -> tuple[Codebook, dict[str, Any]]:
    """Cluster points; see `kmeans.fit` for the arguments. Every node weighs the same.

    Returns:
        a codebook of the nodes grouped into communities, and diagnostics: nodes, resolution, communities (before the
        surplus ones, where the wanted number was missed, were merged by average linkage).

    Raises:
        NumericsError: NaN or infinite values, all vectors equal, or fewer distinct ones than clusters.
        UserError: igraph is not installed.
    """
    from maskmill.cluster import _graph
    from maskmill.cluster._linkage import between, reduce_to
    from maskmill.numerics.blocks import one_thread

    nodes = summarise(source, params, seed, device, params.clusters)
    with one_thread():
        partition = _graph.leiden(_graph.affinity(nodes.x, params.neighbours), seed, params.trials)
    if params.clusters is None:
        labels, resolution = partition(params.resolution), params.resolution
    else:
        labels, resolution = _graph.wanted(partition, params.clusters)
    found = _graph.communities(labels)
    if params.clusters is not None:
        labels = reduce_to(labels, *between(nodes.x, nodes.counts, labels), params.clusters)
    return codebook_of(nodes, labels, {"nodes": len(nodes), "resolution": resolution, "communities": found})

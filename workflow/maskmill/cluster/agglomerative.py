"""Over-cluster and merge: fine k-means centroids are joined bottom-up, each weighing as many points as it stands for.

Ward, Hierarchical grouping to optimize an objective function (1963); average linkage: Sokal and Michener (1958). The
fine clusters follow what is frequent less than few clusters do; joining them gives clusters of any shape and size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from maskmill.cluster import Traits
from maskmill.cluster._nodes import CountedParams, codebook_of, summarise
from maskmill.store.codebook import Codebook

if TYPE_CHECKING:
    from maskmill.numerics.points import Source


TRAITS = Traits()


class Params(CountedParams):
    """Parameters of over-clustering and merging."""

    fine: int = Field(200, ge=2, le=10_000, description="fine centroids that are merged")
    linkage: Literal["average", "ward"] = Field(
        "average", description="average: mean distance of two clusters; ward: growth of the sum of squares"
    )


def fit(source: Source, params: Params, seed: int, device: str = "auto") -> tuple[Codebook, dict[str, Any]]:
    """Cluster points; see `kmeans.fit` for the arguments.

    Distances are 1 - cosine (spherical) or Euclidean for average linkage, squared for ward's.

    Returns:
        a codebook of the fine centroids grouped into clusters, and diagnostics: nodes, heights (of the merges, lowest
        first; the first nodes - clusters of them were made).

    Raises:
        NumericsError: NaN or infinite values, all vectors equal, or fewer distinct ones than clusters.
    """
    import numpy as np

    from maskmill.cluster._linkage import cut, merge, squared
    from maskmill.numerics.blocks import one_thread

    nodes = summarise(source, params, seed, device, params.clusters)
    with one_thread():
        distance = squared(nodes.x)  # [m, m]
        if params.linkage == "average":
            distance = distance / 2 if params.spherical else np.sqrt(distance)
        pairs, heights = merge(distance, nodes.counts, params.linkage)
    return codebook_of(nodes, cut(pairs, params.clusters), {"nodes": len(nodes), "heights": heights})

"""Over-cluster and merge: fine k-means centroids are joined bottom-up, each weighing as many points as it stands for.

Ward, Hierarchical grouping to optimize an objective function (1963); average linkage: Sokal and Michener (1958). The
fine clusters follow what is frequent less than few clusters do; joining them gives clusters of any shape and size.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from maskmill.cluster import Traits
from maskmill.cluster._nodes import CountedParams, codebook_of, summarise
from maskmill.store.codebook import Codebook

if TYPE_CHECKING:
    import numpy as np

    from maskmill.cluster._auto import Fits
    from maskmill.cluster._nodes import Nodes
    from maskmill.numerics.points import Source


TRAITS = Traits(counted=True)


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
    from maskmill.cluster._linkage import cut

    nodes = summarise(source, params, seed, device, params.count)
    pairs, heights = tree(nodes, params)
    return codebook_of(nodes, cut(pairs, params.count), {"nodes": len(nodes), "heights": heights})


def tree(nodes: Nodes, params: Params) -> tuple[np.ndarray, np.ndarray]:
    """All merges of nodes: pairs [m - 1, 2] and heights [m - 1], see `maskmill.cluster._linkage.merge`."""
    import numpy as np

    from maskmill.cluster._linkage import merge, squared
    from maskmill.numerics.blocks import one_thread

    with one_thread():
        distance = squared(nodes.x)  # [m, m]
        if params.linkage == "average":
            distance = distance / 2 if params.spherical else np.sqrt(distance)
        return merge(distance, nodes.counts, params.linkage)


def several(params: Params) -> Fits:
    """Codebooks of several numbers, all cut from one tree; see `maskmill.cluster.Method`."""
    from maskmill.cluster._linkage import cut

    def fits(x: np.ndarray, numbers: Sequence[int], seed: int) -> Iterable[Codebook]:
        nodes = summarise(x, params, seed, "cpu", max(numbers))
        pairs, _ = tree(nodes, params)
        return (codebook_of(nodes, cut(pairs, k), {})[0] for k in numbers)

    return fits

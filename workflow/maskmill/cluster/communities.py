"""Over-cluster, then join fine clusters that occur together: communities of their co-occurrence within images.

Ziegler and Asano, Self-supervised learning of object parts for semantic segmentation (Leopart, 2022), section 3.4: fine
k-means clusters are parts, and parts of one object are neighbours in many images. Communities by Infomap (Rosvall and
Bergstrom, 2008) or Leiden. As published are `number: preferred` and `unlinked: background`; the bisection of the scale
to a number that is kept exactly is not in the paper.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from maskmill.cluster import Traits
from maskmill.cluster._graph import installed
from maskmill.cluster._nodes import NodeParams, codebook_of, summarise
from maskmill.cluster._number import no_auto
from maskmill.errors import NumericsError
from maskmill.store.codebook import Codebook

if TYPE_CHECKING:
    import numpy as np

    from maskmill.numerics.points import Source

Images = Callable[[], "Iterator[tuple[np.ndarray, bool]]"]
Partition = Callable[[float], "np.ndarray"]

TRAITS = Traits(reads_images=True, finds_number=True)


class Params(NodeParams):
    """Parameters of communities of co-occurring clusters; the values of `recipes/leopart_cbfe.yaml` are Leopart's."""

    clusters: Annotated[int | None, no_auto("null lets this one find its number")] = Field(
        None, ge=2, le=2000, description="number of clusters; null: from the data"
    )
    number: Literal["exact", "preferred"] = Field(
        "exact", description="clusters: bisects the scale until there are so many, or is a wish that infomap is told"
    )
    fine: int = Field(150, ge=2, le=2000, description="fine k-means clusters that are joined")
    threshold: float = Field(
        0.09, ge=0, lt=1, description="links below it are dropped; exact, clusters: not if the network falls apart"
    )
    unlinked: Literal["clusters", "background"] = Field(
        "clusters", description="what a fine cluster without links is: one of the clusters, or background"
    )
    distances: list[int] = Field(
        default_factory=lambda: [1], min_length=1, description="how far neighbours are apart, in cells of the map"
    )
    side: int | None = Field(
        None, ge=2, le=1000, description="first resize the maps of clusters to this side, nearest; null: tokens"
    )
    algorithm: Literal["infomap", "leiden"] = Field("infomap", description="how communities are found")
    markov_time: float = Field(2.0, gt=0, description="infomap: larger gives fewer communities")
    resolution: float = Field(1.0, gt=0, description="leiden: larger gives more communities")
    trials: int = Field(10, ge=1, le=1000, description="runs of the algorithm; the best one is kept")

    @model_validator(mode="after")
    def _sound(self) -> Params:
        if self.clusters is not None and self.fine < self.clusters:
            raise ValueError(f"fine must be at least clusters ({self.clusters})")
        if min(self.distances) < 1:
            raise ValueError("distances must be 1 or more")
        if self.number == "preferred" and self.algorithm != "infomap":
            raise ValueError(f"number: preferred is a setting of infomap; with {self.algorithm} set number: exact")
        installed("infomap" if self.algorithm == "infomap" else "igraph", self.algorithm)
        return self


def fit(
    source: Source,
    params: Params,
    seed: int,
    device: str = "auto",
    *,
    images: Images,
    foreground: Codebook | None = None,
) -> tuple[Codebook, dict[str, Any]]:
    """Cluster points; see `kmeans.fit` for the other arguments.

    Args:
        images: a function that returns an iterator over all images, in the order of their ids: vectors [h, w, d], and
            True where h and w are the places of tokens, False for a list of regions (all of which are neighbours).
        foreground: a codebook of background (0) and foreground (1); see `cooccurrence`.

    Returns:
        a codebook of the fine centroids grouped into communities, and diagnostics: nodes, links (of the network),
        threshold, communities (before any were merged), scale (markov time or resolution), unlinked (fine clusters
        that are background; their centroids have the group -1).

    Raises:
        NumericsError: NaN or infinite values, all vectors equal, fewer distinct ones than clusters, no links, or
            nothing but background.
        UserError: infomap, or igraph for leiden, is not installed.
    """
    import numpy as np

    from maskmill.cluster import _graph
    from maskmill.cluster._linkage import reduce_to

    nodes = summarise(source, params, seed, device, params.clusters)
    m, exact = len(nodes), params.clusters is not None and params.number == "exact"
    book = Codebook(nodes.raw, nodes.counts, nodes.inertia, nodes.spherical)
    share = cooccurrence(images(), book, params.distances, params.side, foreground)  # [m (+ 1), ...], P(j | i)
    threshold = params.threshold
    if params.unlinked == "clusters":
        share = share[:m, :m]  # the background is no node
        threshold = min(threshold, joining(np.minimum(share, share.T))) if exact else threshold
    links = network(share, threshold)
    if not links.nnz:
        raise NumericsError(
            f"cluster.threshold: no two of the {m} fine clusters occur together as often as "
            f"{params.threshold} of their neighbours in either direction; lower it, or lower cluster.fine"
        )
    partition, start = _partition(links, params, seed)
    if params.unlinked == "background":
        partition = _objects(partition, links, m)
    if exact:
        assert params.clusters is not None
        labels, scale = _graph.wanted(partition, params.clusters, start)
    else:
        labels, scale = partition(start), start
    found = _graph.communities(labels)
    if not found:
        raise NumericsError(
            f"cluster.threshold: {threshold} leaves no fine cluster that is not background; lower it, or set "
            "cluster.unlinked: clusters"
        )
    if exact:
        assert params.clusters is not None
        labels = reduce_to(labels, *_apart(share[:m, :m], nodes.x, nodes.counts, labels), params.clusters)
    scale = scale if params.algorithm == "leiden" else 1 / scale
    about = {
        "nodes": m, "links": links.nnz // 2, "threshold": threshold, "communities": found, "scale": scale,
        "unlinked": int((labels < 0).sum()), "noise_is_background": int(params.unlinked == "background"),
    }  # fmt: skip
    return codebook_of(nodes, np.asarray(labels), about)


def _partition(links: Any, params: Params, seed: int) -> tuple[Partition, float]:
    """The algorithm on a network: a function scale -> communities of all its nodes, and the scale to start from."""
    from maskmill.cluster import _graph

    if params.algorithm == "leiden":
        return _graph.leiden(links, seed, params.trials), params.resolution
    preferred = params.clusters if params.number == "preferred" else None
    return _graph.infomap(links, seed, params.trials, preferred), 1 / params.markov_time


def _objects(partition: Partition, links: Any, m: int) -> Partition:
    """`partition`, but -1 for what is background: nodes without links, and those in one community with node m.

    Args:
        links: [m, m], or [m + 1, m + 1] where the last node is the background of the stage foreground.
    """
    import numpy as np

    from maskmill.cluster import _graph

    alone = links.sum(axis=1) == 0

    def objects(scale: float) -> np.ndarray:
        labels = partition(scale)
        outside = alone | (labels == labels[m]) if len(labels) > m else alone
        found = np.full(m, -1)
        found[~outside[:m]] = _graph.numbered(labels[:m][~outside[:m]])
        return found

    return objects


def cooccurrence(
    images: Iterator[tuple[np.ndarray, bool]],
    book: Codebook,
    distances: list[int],
    side: int | None,
    foreground: Codebook | None = None,
) -> np.ndarray:
    """P(j | i) [m, m] float64: of the neighbours of cluster i that are not of i, the share of j; mean over images.

    Only images in which i has a neighbour that is not of i count for it, each the same. With a `foreground` the
    background is one more cluster, as in Leopart: [m + 1, m + 1], and it is the last.
    """
    import numpy as np

    from maskmill.store.codebook import assign

    m = len(book) + (foreground is not None)
    total, occurs = np.zeros((m, m)), np.zeros(m)
    for values, placed in images:
        h, w, d = values.shape
        if not h * w:
            continue
        labels = assign(values.reshape(h * w, d), book)[0].reshape(h, w)
        if foreground is not None:
            labels[assign(values.reshape(h * w, d), foreground)[0].reshape(h, w) == 0] = m - 1
        counts = pairs(resized(labels, side), m, distances) if placed else together(labels.ravel(), m)
        np.fill_diagonal(counts, 0)
        rows = counts.sum(axis=1, keepdims=True)
        total += counts / np.maximum(rows, 1)
        occurs += rows[:, 0] > 0
    return total / np.maximum(occurs, 1)[:, None]


def resized(labels: np.ndarray, side: int | None) -> np.ndarray:
    """Labels [h, w] at [side, side], nearest."""
    from maskmill.images.masks import to_size

    return labels if side is None else to_size(labels, (side, side))


def pairs(labels: np.ndarray, m: int, distances: list[int]) -> np.ndarray:
    """How often labels [h, w] meet in the 8 directions at each distance [m, m] float64: grey-level co-occurrence.

    Diagonal steps have the length of straight ones, rounded to cells (2 is one cell down and one to the right).
    """
    import numpy as np

    h, w = labels.shape
    counts = np.zeros(m * m)
    for step in distances:
        slanted = max(1, round(step / np.sqrt(2)))
        for down, right in ((0, step), (step, 0), (slanted, slanted), (slanted, -slanted)):
            if down >= h or abs(right) >= w:
                continue
            one = labels[: h - down, max(0, -right) : w - max(0, right)]
            other = labels[down:, max(0, right) : w + min(0, right)]
            counts += np.bincount((one.astype(np.int64) * m + other).ravel(), minlength=m * m)
    square = counts.reshape(m, m)
    return square + square.T


def together(labels: np.ndarray, m: int) -> np.ndarray:
    """How many pairs of regions of an image have labels i and j: [m, m] float64, of the regions' labels [n]."""
    import numpy as np

    n = np.bincount(labels, minlength=m).astype(np.float64)
    return np.outer(n, n) - np.diag(n)


def network(share: np.ndarray, threshold: float) -> Any:
    """Weights min(P_ij, P_ji) [m, m] where both are at least the threshold; a csr_array with no diagonal."""
    import numpy as np
    from scipy.sparse import csr_array

    weight = np.minimum(share, share.T)
    np.fill_diagonal(weight, 0)
    return csr_array(np.where(weight >= threshold, weight, 0))


def joining(weight: np.ndarray) -> float:
    """The largest threshold at which the graph of weights [m, m] has as few parts as with all its links; 0 without any.

    It is the lightest link of the heaviest spanning forest.
    """
    import numpy as np
    from scipy.sparse.csgraph import minimum_spanning_tree

    linked = np.where(weight > 0, 2 - weight, 0)  # 0 is no link; the lightest tree of 2 - w is the heaviest of w
    kept = minimum_spanning_tree(linked).data
    return float(2 - kept.max()) * (1 - 1e-9) if len(kept) else 0.0


def _apart(share: np.ndarray, x: np.ndarray, counts: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distances of communities [k, k] for merging surplus ones, and their weights [k].

    1 - mean of min(P_ij, P_ji) over pairs of fine clusters, weighted by points. Where that is equal, the distance of
    the features decides.
    """
    import numpy as np

    from maskmill.cluster._linkage import between

    inside = np.flatnonzero(labels >= 0)
    member = np.zeros((len(labels), int(labels.max()) + 1))
    member[inside, labels[inside]] = counts[inside]
    weight = member.sum(axis=0)
    linked = member.T @ np.minimum(share, share.T) @ member / np.outer(weight, weight)
    features, total = between(x, counts, labels)
    return 1 - linked + 1e-3 * features / max(float(features.max()), 1e-12), total

"""What to name or to label next: the clusters, or images, that tell most about what has no sure name yet.

A name tells of its own cluster, and by likeness of others. A set of names covers every cluster as well as its likest
one does; the next suggestion adds most to this coverage, weighted by the clusters' area and uncertainty. This is
facility location, monotone and submodular, of which greedy choice reaches at least 1 - 1/e of the best (Nemhauser,
Wolsey and Fisher, 1978). So suggestions lie apart from each other and from what has a name.

Largest first, the obvious order, is poor: the largest clusters of photos are alike. Width and power were chosen on
frames inside the training part of one set (docs/benchmarks.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from maskmill.store.codebook import Codebook
from maskmill.taxonomy._graph import centroid_graph, index_of

if TYPE_CHECKING:
    import scipy.sparse as sp

NEIGHBOURS = 200  # likest others that a name tells of
WIDTH = 0.4  # likeness is exp(-(1 - cosine) / WIDTH)
POWER = 0.5  # of the area of a cluster, so that small classes are found too
ENOUGH = 8.0  # vectors of a cluster in an image whose labels name the cluster with a probability of 1 - 1/e


def likeness(codebook: Codebook, neighbours: int = NEIGHBOURS, width: float = WIDTH) -> sp.csc_array:
    """What a name of cluster j tells of cluster i, [k, k] in 0..1, 1 on the diagonal; by their likest centroids."""
    import scipy.sparse as sp

    graph = centroid_graph(index_of(codebook.centroids, codebook.spherical), neighbours, width).tocoo()
    count, group = len(codebook), codebook.group
    group = np.arange(count) if group is None else group
    row, column = group[graph.row].astype(np.int64), group[graph.col].astype(np.int64)
    other = (row >= 0) & (column >= 0) & (row != column)
    place = np.concatenate([(row * count + column)[other], np.arange(count) * (count + 1)])
    value = np.concatenate([graph.data[other], np.ones(count)])
    order = np.lexsort((value, place))  # of equal places the largest value is last
    place, value = place[order], value[order]
    last = np.flatnonzero(np.diff(place, append=-1))
    return sp.csc_array((value[last], (place[last] // count, place[last] % count)), shape=(count, count))


def clusters(
    area: np.ndarray, uncertainty: np.ndarray, alike: sp.csc_array, count: int, named: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The clusters whose names tell most, the best one first; the lower one of equals.

    Args:
        area: [k], of each cluster in the images. uncertainty: [k] in 0..1, 1 less the confidence of its name; 1 where
            it has none. alike: of `likeness`.
        named: bool [k], clusters that a person has named: never suggested, and what they tell is known.

    Returns:
        cluster numbers [at most count] from 0, and the weight that each of them covers beside those before it.
    """
    weight = area.astype(np.float64) ** POWER * uncertainty
    taken = np.zeros(len(area), bool) if named is None else named.copy()
    covered = alike[:, np.flatnonzero(taken)].max(axis=1).toarray().ravel() if taken.any() else np.zeros(len(area))
    chosen, gains = [], []
    for _ in range(min(count, int((~taken).sum()))):
        more = weight[alike.indices] * np.maximum(alike.data - covered[alike.indices], 0)
        gain = np.where(taken, -1.0, np.add.reduceat(more, alike.indptr[:-1]))  # no column is empty
        best = int(gain.argmax())
        chosen.append(best)
        gains.append(float(gain[best]))
        taken[best] = True
        rows = slice(alike.indptr[best], alike.indptr[best + 1])
        covered[alike.indices[rows]] = np.maximum(covered[alike.indices[rows]], alike.data[rows])
    return np.array(chosen, np.int64), np.array(gains)


def images(
    tallies: np.ndarray, area: np.ndarray, uncertainty: np.ndarray, alike: sp.csc_array, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """The images whose labels tell most, the best one first; the lower one of equals.

    Args:
        tallies: [images, k], vectors of each cluster in each image. The other arguments are those of `clusters`.

    Returns:
        rows of `tallies` [at most count], and the weight that each of them covers beside those before it.
    """
    weight = area.astype(np.float64) ** POWER * uncertainty
    told = 1 - np.exp(-tallies.astype(np.float64) / ENOUGH)  # that its labels name the cluster
    covers = np.stack([alike.multiply(row[None]).max(axis=1).toarray().ravel() for row in told])  # [images, k]
    covered = np.zeros(len(area))
    taken = np.zeros(len(tallies), bool)
    chosen, gains = [], []
    for _ in range(min(count, len(tallies))):
        gain = np.where(taken, -1.0, np.maximum(covers - covered, 0) @ weight)
        best = int(gain.argmax())
        chosen.append(best)
        gains.append(float(gain[best]))
        taken[best] = True
        covered = np.maximum(covered, covers[best])
    return np.array(chosen, np.int64), np.array(gains)

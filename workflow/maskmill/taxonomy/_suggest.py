"""What to name or to label next: the clusters, or images, that tell most about what has no sure name yet.

Every cluster holds an area without a sure name: its area times its uncertainty. To name a cluster settles its own, and
part of its neighbours' in the graph of the centroids, as names spread there (`_graph.harmonic`). The next suggestion is
the one that settles most; what it settles is then gone, so that the one after it lies elsewhere. The settled area is a
monotone submodular function of the suggestions, of which greedy choice reaches at least 1 - 1/e of the best (Nemhauser,
Wolsey and Fisher, 1978).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from maskmill.store.codebook import Codebook
from maskmill.taxonomy._graph import centroid_graph, index_of

if TYPE_CHECKING:
    import scipy.sparse as sp

ENOUGH = 8.0  # vectors of a cluster in an image whose labels name the cluster with a probability of 1 - 1/e


def cluster_graph(codebook: Codebook, neighbours: int = 10, width: float = 0.1) -> sp.csr_array:
    """Weights [k, k] between the clusters of a codebook: those of their centroids, added; noise is no cluster."""
    import scipy.sparse as sp

    graph = centroid_graph(index_of(codebook.centroids, codebook.spherical), neighbours, width)
    if codebook.group is None:
        return graph
    alive = np.flatnonzero(codebook.group >= 0)
    ones = np.ones(len(alive))
    member = sp.csr_array((ones, (codebook.group[alive], alive)), shape=(len(codebook), len(codebook.centroids)))
    joined = sp.csr_array(member @ graph @ member.T)
    return sp.csr_array(joined - sp.diags_array(joined.diagonal()))


def influence(graph: sp.csr_array) -> sp.csc_array:
    """What share of cluster i is settled when cluster j gets a name, [k, k] in 0..1: 1 on the diagonal.

    Of others: the probability that a walk from i is at j after one step or two.
    """
    import scipy.sparse as sp

    degree = np.asarray(graph.sum(axis=1)).ravel()
    step = sp.diags_array(1 / np.maximum(degree, np.finfo(np.float64).tiny)) @ graph
    near = sp.csr_array(step + step @ step)
    near = near - sp.diags_array(near.diagonal()) + sp.eye_array(len(degree))
    near.data = np.minimum(near.data, 1)
    return sp.csc_array(near)


def clusters(
    area: np.ndarray, uncertainty: np.ndarray, settles: sp.csc_array, count: int, named: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The clusters whose names tell most, the best one first; the lower one of equals.

    Args:
        area: [k], of each cluster in the images. uncertainty: [k] in 0..1, 1 less the confidence of its name; 1 where
            it has none. settles: of `influence`.
        named: bool [k], clusters that a person has named: never suggested, and their uncertainty does not count.

    Returns:
        cluster numbers [at most count] from 0, and the area that each of them settles after those before it.
    """
    open_area = area * uncertainty.astype(np.float64)
    taken = np.zeros(len(area), bool) if named is None else named.copy()
    open_area[taken] = 0
    chosen, gains = [], []
    for _ in range(min(count, int((~taken).sum()))):
        gain = np.where(taken, -1.0, open_area @ settles)
        best = int(gain.argmax())
        chosen.append(best)
        gains.append(float(gain[best]))
        taken[best] = True
        rows = slice(settles.indptr[best], settles.indptr[best + 1])
        open_area[settles.indices[rows]] *= 1 - settles.data[rows]
    return np.array(chosen, np.int64), np.array(gains)


def images(
    tallies: np.ndarray, area: np.ndarray, uncertainty: np.ndarray, settles: sp.csc_array, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """The images whose labels tell most, the best one first; the lower one of equals.

    Args:
        tallies: [images, k], vectors of each cluster in each image. The other arguments are those of `clusters`.

    Returns:
        rows of `tallies` [at most count], and the area that each of them settles after those before it.
    """
    open_area = area * uncertainty.astype(np.float64)
    told = 1 - np.exp(-tallies.astype(np.float64) / ENOUGH)  # that its labels name the cluster
    settled = np.minimum(np.asarray(told @ settles.T), 1)  # [images, k]
    taken = np.zeros(len(tallies), bool)
    chosen, gains = [], []
    for _ in range(min(count, len(tallies))):
        gain = np.where(taken, -1.0, settled @ open_area)
        best = int(gain.argmax())
        chosen.append(best)
        gains.append(float(gain[best]))
        taken[best] = True
        open_area *= 1 - settled[best]
    return np.array(chosen, np.int64), np.array(gains)

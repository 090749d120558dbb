"""A few labelled images name the clusters: class shares of every centroid, and scores of new vectors.

Labelled vectors give their class shares to the nearest centroids, as they will later read them from there; centroids
that nothing labelled is near are named by their neighbours (`_graph.harmonic`). Votes are divided by a power of the
share that their class has of all of them, so that a large class does not swallow what lies beside it. A new vector is
scored by the mean of its nearest centroids: the local weights of anchor graphs (Liu, He and Chang, "Large Graph
Construction for Scalable Semi-Supervised Learning", ICML 2010).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from maskmill.errors import NumericsError
from maskmill.numerics.mixing import Anchors
from maskmill.numerics.neighbours import unit_rows
from maskmill.store.codebook import Codebook
from maskmill.taxonomy._graph import centroid_graph, harmonic, index_of


@dataclass(frozen=True)
class Voting:
    """Settings of the votes; chosen on frames inside the training part of one set (docs/benchmarks.md).

    Attributes:
        nearest: centroids that a vector votes for and is read from, 1: its own only.
        width: of their weights exp(-(1 - cosine) / width), and of the graph's.
        neighbours: of a centroid in the graph.
        smoothing: weight of an edge, in labelled vectors.
        leak: weight by which a centroid forgets, in weights of all its neighbours. 1: each step away from the labels
            halves what they say, so that the near ones decide; 0: far from few labels all shares are alike.
        prior: votes are divided by (share of their class) ** prior; 0: they are not.
    """

    nearest: int = 8
    width: float = 0.1
    neighbours: int = 10
    smoothing: float = 0.1
    leak: float = 1.0
    prior: float = 0.5


@dataclass(frozen=True)
class Named:
    """Classes of centroids.

    Attributes:
        shares: [m, K] float32, of every centroid; a row sums to 1, or is 0 where no vote reaches (noise among them).
        evidence: [m] float32, labelled vectors that voted for the centroid, void ones not counted.
        reach: [m] float32 in 0..1, how much of the shares comes from near; 0 where nothing does.
    """

    shares: np.ndarray
    evidence: np.ndarray
    reach: np.ndarray

    @property
    def confidence(self) -> np.ndarray:
        """Of each centroid [m] in 0..1: its reach times the lead of its first class over its second."""
        if self.shares.shape[1] < 2:
            return self.reach
        top = np.partition(self.shares, -2, axis=1)
        return np.asarray(self.reach * (top[:, -1] - top[:, -2]))

    @property
    def entropy(self) -> np.ndarray:
        """Of the shares of each centroid [m], in 0..1: 1 where all classes are equal; 0 where there are no shares."""
        p = self.shares.astype(np.float64)
        bits = -(p * np.log(np.maximum(p, np.finfo(np.float64).tiny))).sum(axis=1)
        return np.asarray(bits / np.log(max(self.shares.shape[1], 2)))

    def mixed(self, entropy: float = 0.4, evidence: float = 8.0) -> np.ndarray:
        """Bool [m]: centroids that have enough evidence for more than one class."""
        return np.asarray((self.entropy > entropy) & (self.evidence >= evidence))

    def class_confidence(self, sizes: np.ndarray) -> np.ndarray:
        """Of each class [K]: the mean confidence of the centroids, by their size [m] and its share; 0: it has none."""
        mass = sizes[:, None] * self.shares.astype(np.float64)
        return np.asarray((mass * self.confidence[:, None]).sum(axis=0) / np.maximum(mass.sum(axis=0), 1e-12))


def fit(x: np.ndarray, shares: np.ndarray, codebook: Codebook, settings: Voting | None = None) -> Named:
    """Name the centroids of a codebook.

    Args:
        x: [n, d] floats, vectors of the labelled images (tokens or regions), in any order.
        shares: [n, K], what share of each vector's pixels has each class; void pixels are missing from it.

    Raises:
        NumericsError: other dimensions than the codebook's, NaN or infinite values, or no labelled vector.
    """
    settings = settings or Voting()
    if len(x) != len(shares) or not shares.size or not shares.any():
        raise NumericsError("taxonomy: no labelled vector; check that the labels of the examples are not all void")
    votes = _votes(x, shares, codebook, settings)
    if not votes.any():
        raise NumericsError("taxonomy: all labelled vectors are noise to the clustering; label other images")
    return spread(votes * weights(shares, settings.prior), votes.sum(axis=1), codebook, settings)


def weights(shares: np.ndarray, prior: float) -> np.ndarray:
    """What a vote for each class counts [K] float64: 1 / (its share of all votes) ** prior, their mean over votes 1.

    A class without a vote counts 0.
    """
    mass = shares.sum(axis=0, dtype=np.float64)
    counts = np.where(mass > 0, (np.maximum(mass, 1e-12) / mass.sum()) ** -prior, 0)
    return np.asarray(counts * mass.sum() / (counts @ mass))


def spread(votes: np.ndarray, evidence: np.ndarray, codebook: Codebook, settings: Voting | None = None) -> Named:
    """Names of all centroids from votes [m, K] for some of them; a vote's sum is its weight in the graph.

    Args:
        evidence: [m], passed on.
    """
    settings = settings or Voting()
    alive = np.flatnonzero(_alive(codebook))
    own = votes[alive].astype(np.float64)
    strength = own.sum(axis=1)
    own = own / np.maximum(strength, 1e-12)[:, None]
    graph = centroid_graph(index_of(codebook.centroids[alive], codebook.spherical), settings.neighbours, settings.width)
    found = np.maximum(harmonic(graph, own, strength, settings.smoothing, settings.leak), 0)
    reach = found.sum(axis=1)  # the values sum to 1 wherever there are some, so this is the reach
    shares, whole = np.zeros(votes.shape, np.float32), np.zeros(len(votes), np.float32)
    shares[alive] = found / np.maximum(reach, 1e-30)[:, None]
    whole[alive] = np.minimum(reach, 1)
    return Named(shares, evidence.astype(np.float32), whole)


def score(x: np.ndarray, codebook: Codebook, shares: np.ndarray, settings: Voting | None = None) -> np.ndarray:
    """Class probabilities [n, K] float32 of vectors [n, d]: the mean of the shares of their nearest centroids.

    A row sums to 1, to less where some of these centroids have no shares, to 0 where none has.
    """
    return anchors(codebook, settings or Voting()).mean(x, shares)


def anchors(codebook: Codebook, settings: Voting) -> Anchors:
    """The centroids as what vectors are written by."""
    return Anchors(codebook.centroids, codebook.spherical, settings.nearest, settings.width)


def split(x: np.ndarray, shares: np.ndarray, codebook: Codebook, chosen: np.ndarray, least: float = 4.0) -> Codebook:
    """A codebook whose mixed centroids are replaced by one centroid a class that the labelled vectors find in them.

    Args:
        x, shares: as in `fit`. chosen: bool [m], the centroids to split, as `Named.mixed` finds them.
        least: labelled vectors of a class in the centroid's cell that it needs for a centroid of its own; where fewer
            than two classes have them, the centroid stays.

    Returns:
        The codebook; its `group` says the cluster of every centroid, so a split moves no vector into another cluster
        except along the new edges.
    """
    group = np.arange(len(codebook.centroids), dtype=np.int32) if codebook.group is None else codebook.group
    own = Anchors(codebook.centroids, codebook.spherical, 1, 1.0)
    cell = np.concatenate([np.zeros(0, np.int64), *(found[:, 0] for _, found, _ in own.weights(x))])
    points, clusters = [], []
    for i, centroid in enumerate(codebook.centroids):
        parts = [centroid]
        if chosen[i]:
            inside = np.flatnonzero(cell == i)
            mass = shares[inside].astype(np.float64)
            kept = np.flatnonzero(mass.sum(axis=0) >= least)
            if len(kept) > 1:
                parts = list(_means(x[inside], mass[:, kept], codebook.spherical))
        points += parts
        clusters += [group[i]] * len(parts)
    return replace(codebook, centroids=np.array(points, np.float32), group=np.array(clusters, np.int32))


def _means(x: np.ndarray, mass: np.ndarray, spherical: bool) -> np.ndarray:
    """Means [K, d] of vectors [n, d], weighted by each column of a mass [n, K]; of unit length where spherical."""
    x = x.astype(np.float64)
    if spherical:
        x = unit_rows(x)
    means = mass.T @ x / mass.sum(axis=0)[:, None]
    return unit_rows(means) if spherical else means


def _alive(codebook: Codebook) -> np.ndarray:
    """Bool [m]: centroids that are not noise."""
    if codebook.group is None:
        return np.ones(len(codebook.centroids), bool)
    return np.asarray(codebook.group >= 0)


def _votes(x: np.ndarray, shares: np.ndarray, codebook: Codebook, settings: Voting) -> np.ndarray:
    """Votes [m, K] float64 of labelled vectors; none for noise."""
    return anchors(codebook, settings).collect(x, shares) * _alive(codebook)[:, None]

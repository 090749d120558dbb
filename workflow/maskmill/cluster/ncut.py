"""One normalised cut through the vectors of all images, by landmarks.

Shi and Malik, Normalized cuts and image segmentation (PAMI 2000), of the graph that links every vector with every
other; its eigenvectors by the Nystroem method (Fowlkes, Belongie, Chung and Malik, PAMI 2004; see `_nystroem`), its
clusters by a rotation (Yu and Shi, ICCV 2003; see `_rotation`) or by k-means of rows of unit length (Ng, Jordan and
Weiss, 2001). The rules for landmarks and bandwidth are those of ncut-pytorch (Yang et al., AlignedCut, 2024), which
cuts the graph of its landmarks alone; here the row sums and eigenvectors are those of all vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from maskmill.cluster import Traits
from maskmill.cluster._nodes import Nodes, blocks_of, codebook_of, distinct_points, draw_points, too_few
from maskmill.cluster._number import NumberParams, UpTo1000
from maskmill.store.codebook import Codebook

if TYPE_CHECKING:
    import torch

    from maskmill.cluster._auto import Fits
    from maskmill.cluster._nystroem import Embedding, Part
    from maskmill.numerics.points import PreparedPoints, Source

ROWS = 10_240  # points at most that the rotation or k-means is found with, as in ncut-pytorch
COUNTED = 1 << 20  # points whose landmarks and clusters are counted at once
SEARCHED = 400  # landmarks while the number of clusters is looked for

TRAITS = Traits(counted=True)


class Params(NumberParams):
    """Parameters of normalised cuts by landmarks."""

    clusters: UpTo1000 = Field(8, description="number of clusters k, and of eigenvectors; auto: chosen from the data")
    fine: int = Field(1000, ge=2, le=10_000, description="landmarks, and nodes of the codebook at most")
    fine_by: Literal["farthest", "sample"] = Field(
        "farthest", description="landmarks are spread evenly, or drawn at random (they follow the density)"
    )
    degree: float | None = Field(
        None, gt=0, lt=1, description="mean affinity of two landmarks; null: the bandwidth is their median distance"
    )
    discretise: Literal["rotation", "kmeans"] = Field(
        "rotation", description="clusters by the rotation of the eigenvectors, or k-means of them"
    )
    restarts: int = Field(10, ge=1, le=1000, description="starts of the rotation or of k-means; the best one is kept")
    spherical: bool = Field(True, description="cosine geometry; false: Euclidean")

    @model_validator(mode="after")
    def _enough(self) -> Params:
        most, key = (self.range[1], "the end of range") if self.range else (self.count, "clusters")
        if self.fine < most:
            raise ValueError(f"fine must be at least {key} ({most})")
        return self


def fit(source: Source, params: Params, seed: int, device: str = "auto") -> tuple[Codebook, dict[str, Any]]:
    """Cluster points; see `maskmill.cluster.Method`. The points are gone through a few times, block by block.

    Returns:
        a codebook of at most `fine` nodes, means of the points of one cluster that are nearest to one landmark, and
        diagnostics: nodes, sigma (bandwidth), eigenvalues (largest first, one more than clusters), ncut (sum over the
        clusters of the share of their links that leave them, of all points), agreement (share of the points that the
        codebook puts into the cluster of their eigenvectors).

    Raises:
        NumericsError: NaN or infinite values, all vectors equal, fewer distinct ones than clusters, or affinities too
            narrow for the landmarks.
    """
    from maskmill.numerics.blocks import one_thread

    with one_thread():
        cut = Cut(source, params, seed, params.count)
        return cut.codebook(cut.divide(params.count, seed))


def several(params: Params) -> Fits:
    """Codebooks of several numbers from the eigenvectors of one cut; see `maskmill.cluster.Method`."""
    from maskmill.cluster import _auto

    small = params.model_copy(update={"fine": min(params.fine, SEARCHED), "restarts": _auto.RESTARTS})

    def fits(x: np.ndarray, numbers: Sequence[int], seed: int) -> Iterable[Codebook]:
        cut = Cut(x, small, seed, max(numbers))
        for k in numbers:
            yield cut.codebook(cut.divide(k, seed))[0]

    return fits


class Cut:
    """The eigenvectors of one set of points, and their division into any number of clusters."""

    def __init__(self, source: Source, params: Params, seed: int, most: int) -> None:
        from maskmill.cluster import _nystroem
        from maskmill.numerics.points import prepare

        self.params = params
        self.points = prepare(source, params.spherical, 1)
        self.raw, x, self.every = landmarks(source, self.points, params, seed, most)
        self.sigma = _nystroem.bandwidth(x, params.degree)
        rank = None if self.every else max(_nystroem.RANK, 2 * most)
        exact = x.astype(np.float64) if self.every else _nystroem.precise(x, self.sigma)
        affinity = _nystroem.Affinity.of(exact, self.sigma, rank)
        self.parts: Callable[[], Iterator[Part]] = _nystroem.passes(self.points, affinity)
        self.embedding: Embedding = _nystroem.embed(self.parts, most + 1)
        self.count = sum(len(part.features) for part in self.parts())

    def rows(self, features: torch.Tensor, count: int) -> torch.Tensor:
        """The first `count` coordinates of points with features [b, r], of unit length [b, count] float32."""
        import torch

        found = self.embedding.coordinates(features)[:, :count]
        return torch.nn.functional.normalize(found.float(), dim=1)

    def divide(self, count: int, seed: int) -> np.ndarray:
        """Directions of `count` clusters [q, count] float32: a point is in the cluster of its largest cosine."""
        from maskmill.cluster._rotation import rotate
        from maskmill.numerics import kmeans
        from maskmill.numerics.sampling import rng

        if self.count > ROWS:
            drawn = np.sort(rng(seed, "cluster", "ncut", "rows").choice(self.count, ROWS, replace=False, shuffle=False))
        else:
            drawn = np.arange(self.count)
        start, found = 0, []
        for part in self.parts():
            stop = start + len(part.features)
            inside = drawn[np.searchsorted(drawn, start) : np.searchsorted(drawn, stop)] - start
            found.append(self.rows(part.features[inside], count).numpy())
            start = stop
        rows = np.concatenate(found)
        if self.params.discretise == "rotation":
            return rotate(rows, self.params.restarts, seed).astype(np.float32)
        own = kmeans.Settings(clusters=count, spherical=True, restarts=self.params.restarts)
        return np.ascontiguousarray(kmeans.fit(rows, own, seed, "cpu")[0].centroids.T)

    def labels(self, turn: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        """The cluster and the nearest landmark of every point [n] int16 each, and the Ncut value of the clusters."""
        import torch

        directions, k = torch.from_numpy(turn), turn.shape[1]
        label, near = np.empty(self.count, np.int16), np.empty(self.count, np.int16)
        sums = torch.zeros(k, len(self.embedding.total), dtype=torch.float64)
        start = 0
        for part in self.parts():
            found = (self.rows(part.features, len(turn)) @ directions).argmax(1)
            one_hot = torch.nn.functional.one_hot(found, k).to(part.features.dtype)
            sums += (one_hot.T @ part.features).double()
            stop = start + len(found)
            label[start:stop], near[start:stop] = found.numpy(), part.nearest.numpy()
            start = stop
        volume = sums @ self.embedding.total
        within = sums.square().sum(1)
        return label, near, float((1 - within / volume.clamp_min(1e-300))[volume > 0].sum())

    def codebook(self, turn: np.ndarray) -> tuple[Codebook, dict[str, Any]]:
        """The codebook of the clusters of some directions, and diagnostics; see `fit`."""
        from maskmill.cluster import _nystroem
        from maskmill.store.codebook import assign

        k = turn.shape[1]
        label, near, cut = self.labels(turn)
        group, node = largest(pairs(label, near, k, len(self.raw)), len(self.raw))
        raw = self.raw[np.nonzero(node >= 0)[0]] if self.every else self.means(label, near, node)
        x = self.points.frame.ready(raw)
        own = Codebook(x, np.zeros(k, np.int64), 0.0, self.params.spherical)
        counts, total, agreed, start = np.zeros(len(x), np.int64), 0.0, 0, 0
        for block in _nystroem.blocks(self.points):
            found, distance = assign(block, own)
            counts += np.bincount(found, minlength=len(x))
            total += float(distance.sum(dtype=np.float64))
            agreed += int((group[found] == label[start : start + len(block)]).sum())
            start += len(block)
        total *= 1 if self.params.spherical else self.points.frame.scale**2
        nodes = Nodes(x if self.params.spherical else raw, x, counts, total, self.params.spherical)
        about = {
            "nodes": len(x), "sigma": self.sigma, "eigenvalues": self.embedding.values[: k + 1], "ncut": cut,
            "agreement": agreed / self.count,
        }  # fmt: skip
        return codebook_of(nodes, group, about)

    def means(self, label: np.ndarray, near: np.ndarray, node: np.ndarray) -> np.ndarray:
        """Means [count, d] float32 of the points of each node, where the vectors are; node: see `largest`."""
        import torch

        from maskmill.cluster import _nystroem

        count = int(node.max()) + 1
        sums, sizes, start = torch.zeros(count + 1, self.points.depth, dtype=torch.float64), np.zeros(count + 1), 0
        for block in _nystroem.blocks(self.points):
            stop = start + len(block)
            mine = node[near[start:stop], label[start:stop]] % (count + 1)  # -1: the last
            sums.index_add_(0, torch.from_numpy(mine), torch.from_numpy(block).double())
            sizes += np.bincount(mine, minlength=count + 1)
            start = stop
        return self.points.frame.restore(sums[:count].numpy() / sizes[:count, None]).astype(np.float32)


def landmarks(
    source: Source, points: PreparedPoints, params: Params, seed: int, clusters: int
) -> tuple[np.ndarray, np.ndarray, bool]:
    """Landmarks as they are and prepared, each [m, d] float32, and True where they are all distinct points.

    Raises:
        NumericsError: all points are equal, or fewer of them differ than there are clusters.
    """
    few = distinct_points(blocks_of(source), params.fine)
    if few is None:
        x = raw = drawn_landmarks(source, points, params, seed)
        if not params.spherical:
            x = points.frame.ready(raw)
    else:
        raw, x = few[0], points.frame.ready(few[0])
        if params.spherical:
            x = x[np.linalg.norm(x, axis=1) > 0.5]  # a vector of zeros has no direction, and is no landmark
            raw = x = x[np.sort(np.unique(x, axis=0, return_index=True)[1])]
    if len(x) < max(clusters, 2):
        raise too_few(len(x), clusters)
    return raw, x, few is not None


def drawn_landmarks(source: Source, points: PreparedPoints, params: Params, seed: int) -> np.ndarray:
    """`fine` landmarks that differ [m, d] float32, prepared where directions count; fewer where no more differ."""
    from maskmill.cluster import _nystroem

    space: Source = (lambda: _nystroem.blocks(points)) if params.spherical else source
    if params.fine_by == "sample":
        return draw_points(space, params.fine, seed, params.fine)
    wanted = max(params.fine, min(_nystroem.CANDIDATES * params.fine, _nystroem.MOST_CANDIDATES, points.count))
    raw = draw_points(space, wanted, seed, params.fine)
    if len(raw) <= params.fine:
        return raw
    x = raw if params.spherical else points.frame.ready(raw)
    return raw[np.sort(_nystroem.farthest(x, params.fine, seed))]


def pairs(label: np.ndarray, near: np.ndarray, clusters: int, landmarks: int) -> np.ndarray:
    """Points of each landmark and cluster [landmarks, clusters] int64; label, near: those of every point [n]."""
    size = np.zeros(landmarks * clusters, np.int64)
    for start in range(0, len(label), COUNTED):  # so that no wider array of all points is made
        pair = near[start : start + COUNTED].astype(np.int64) * clusters + label[start : start + COUNTED]
        size += np.bincount(pair, minlength=len(size))
    return size.reshape(landmarks, clusters)


def largest(counts: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """The nodes: points of one cluster that are nearest to one landmark, the `most` largest such groups.

    Every cluster has a node: its largest one is kept, and a cluster that no point is in takes the largest of the
    cluster with the most nodes.

    Args:
        counts: points of each landmark and cluster [landmarks, clusters]; see `pairs`.

    Returns:
        the cluster of each node [m] int64, and the node of the points of each landmark and cluster [landmarks,
        clusters] int64, -1 for none.
    """
    clusters = counts.shape[1]
    pair = np.flatnonzero(counts)
    size, group = counts.ravel()[pair], pair % clusters
    order = np.lexsort([np.arange(len(pair)), -size])
    first = order[np.sort(np.unique(group[order], return_index=True)[1])]  # the largest of each cluster
    rest = order[~np.isin(order, first)]
    kept = np.sort(np.concatenate([first, rest[: max(0, most - len(first))]]))
    node = np.full(counts.size, -1)
    node[pair[kept]] = np.arange(len(kept))
    group, size = group[kept], size[kept]
    for cluster in np.setdiff1d(np.arange(clusters), group):
        rich = group == np.bincount(group, minlength=clusters).argmax()
        group[np.where(rich, size, -1).argmax()] = cluster
    return group, node.reshape(counts.shape)

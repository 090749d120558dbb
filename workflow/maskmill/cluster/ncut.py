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

ROWS = 100_000  # points at most that the rotation or k-means is found with
SEARCHED = 400  # landmarks while the number of clusters is looked for

TRAITS = Traits(counted=True)


class Params(NumberParams):
    """Parameters of normalised cuts by landmarks."""

    clusters: UpTo1000 = Field(8, description="number of clusters k, and of eigenvectors; auto: chosen from the data")
    fine: int = Field(1000, ge=2, le=10_000, description="landmarks; they are the nodes of the codebook, too")
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
        a codebook of the landmarks, each in the cluster that most of the points nearest to it have, and diagnostics:
        nodes, sigma (bandwidth), eigenvalues (largest first, one more than clusters), ncut (sum over the clusters of
        the share of their links that leave them, of all points), agreement (share of the points that are in the
        cluster of their nearest landmark).

    Raises:
        NumericsError: NaN or infinite values, all vectors equal, or fewer distinct ones than clusters.
    """
    from maskmill.numerics.blocks import one_thread

    with one_thread():
        cut = Cut(source, params, seed, params.count)
        turn = cut.divide(params.count, seed)
        labels, about = cut.labels(turn)
    return codebook_of(cut.nodes, labels, about)


def several(params: Params) -> Fits:
    """Codebooks of several numbers from the eigenvectors of one cut; see `maskmill.cluster.Method`."""
    from maskmill.cluster import _auto

    small = params.model_copy(update={"fine": min(params.fine, SEARCHED), "restarts": _auto.RESTARTS})

    def fits(x: np.ndarray, numbers: Sequence[int], seed: int) -> Iterable[Codebook]:
        cut = Cut(x, small, seed, max(numbers))
        for k in numbers:
            yield codebook_of(cut.nodes, cut.labels(cut.divide(k, seed))[0], {})[0]

    return fits


class Cut:
    """The eigenvectors of one set of points, and their division into any number of clusters."""

    def __init__(self, source: Source, params: Params, seed: int, most: int) -> None:
        from maskmill.cluster import _nystroem
        from maskmill.numerics.points import prepare

        self.params = params
        points = prepare(source, params.spherical, 1)
        raw, x, every = landmarks(source, points, params, seed, most)
        self.sigma = _nystroem.bandwidth(x, params.degree)
        rank = None if every else max(_nystroem.RANK, 2 * most)
        exact = x.astype(np.float64) if every else x
        self.parts: Callable[[], Iterator[Part]] = _nystroem.passes(
            points, _nystroem.Affinity.of(exact, self.sigma, rank)
        )
        self.embedding: Embedding = _nystroem.embed(self.parts, most + 1)
        counts, total = np.zeros(len(x), np.int64), 0.0
        for part in self.parts():
            counts += np.bincount(part.nearest.numpy(), minlength=len(x))
            total += float(part.distance.double().sum())
        self.nodes = Nodes(raw, x, counts, 0.0 if every else points.frame.inertia(total), params.spherical)
        self.count = int(counts.sum())

    def rows(self, part: Part, count: int) -> torch.Tensor:
        """The first `count` coordinates of a block's points, of unit length [b, count] float32."""
        import torch

        found = self.embedding.coordinates(part.features)[:, :count]
        return torch.nn.functional.normalize(found.float(), dim=1)

    def divide(self, count: int, seed: int) -> np.ndarray:
        """The directions of `count` clusters [q, count] float32: a point is in the cluster of its largest cosine."""
        step = -(-self.count // ROWS)
        start, found = 0, []
        for part in self.parts():
            found.append(self.rows(part, count)[(-start) % step :: step].numpy())
            start += len(part.features)
        rows = np.concatenate(found)
        if self.params.discretise == "rotation":
            from maskmill.cluster._rotation import rotate

            return rotate(rows, self.params.restarts, seed).astype(np.float32)
        from maskmill.numerics import kmeans

        own = kmeans.Settings(clusters=count, spherical=True, restarts=self.params.restarts)
        return np.ascontiguousarray(kmeans.fit(rows, own, seed, "cpu")[0].centroids.T)

    def labels(self, turn: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
        """The cluster of each landmark [m], and diagnostics of the cut.

        Every cluster has a landmark: one that would have none gets the one most of whose points are in it.
        """
        import torch

        directions, k = torch.from_numpy(turn), turn.shape[1]
        table = np.zeros((len(self.nodes), k), np.int64)
        sums, volume = torch.zeros(k, len(self.embedding.total), dtype=torch.float64), torch.zeros(k).double()
        for part in self.parts():
            label = (self.rows(part, len(turn)) @ directions).argmax(1)
            np.add.at(table, (part.nearest.numpy(), label.numpy()), 1)
            one_hot = torch.nn.functional.one_hot(label, k).to(part.features.dtype)
            sums += (one_hot.T @ part.features).double()
        volume = sums @ self.embedding.total
        within = sums.square().sum(1)
        cut = float((1 - within / volume.clamp_min(1e-300))[volume > 0].sum())
        labels = whole(table)
        about = {
            "nodes": len(self.nodes), "sigma": self.sigma, "eigenvalues": self.embedding.values[: k + 1], "ncut": cut,
            "agreement": float(table[np.arange(len(table)), labels].sum() / self.count),
        }  # fmt: skip
        return labels, about


def landmarks(
    source: Source, points: PreparedPoints, params: Params, seed: int, clusters: int
) -> tuple[np.ndarray, np.ndarray, bool]:
    """Landmarks as they are and prepared, each [m, d] float32, and True where they are all distinct points.

    Raises:
        NumericsError: all points are equal, or fewer of them differ than there are clusters.
    """
    from maskmill.cluster import _nystroem

    few = distinct_points(blocks_of(source), params.fine)
    if few is not None:
        raw = few[0]
    else:
        wanted = params.fine
        if params.fine_by == "farthest":
            wanted = max(params.fine, min(_nystroem.CANDIDATES * params.fine, _nystroem.MOST_CANDIDATES, points.count))
        raw = draw_points(source, wanted, seed)
    x = points.frame.ready(raw)
    if params.spherical:
        kept = np.linalg.norm(x, axis=1) > 0.5  # a vector of zeros has no direction, and is no landmark
        raw, x = x[kept], x[kept]
        first = np.sort(np.unique(x, axis=0, return_index=True)[1])
        raw, x = raw[first], x[first]
    if few is None and params.fine_by == "farthest" and len(x) > params.fine:
        rows = np.sort(_nystroem.farthest(x, params.fine, seed))
        raw, x = raw[rows], x[rows]
    if len(x) < max(clusters, 2):
        raise too_few(len(x), clusters)
    return raw, x, few is not None


def whole(table: np.ndarray) -> np.ndarray:
    """The cluster of each landmark [m], of how many of its points are in each [m, k]: most, and none is left out."""
    labels = table.argmax(axis=1)
    share = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    for cluster in range(table.shape[1]):
        if (labels == cluster).any():
            continue
        shared = np.bincount(labels, minlength=table.shape[1])[labels] > 1
        labels[np.where(shared, share[:, cluster], -1.0).argmax()] = cluster
    return labels

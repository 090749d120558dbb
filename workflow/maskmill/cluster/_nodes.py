"""Nodes: what the graph and tree methods cluster instead of all points, and the codebook that they end in.

A node is a fine centroid that stands for the points nearest to it. Every method labels the nodes only; a point, of the
fit or of any shard later, has the label of its nearest node. With at most `fine` distinct points each of them is a node
and the methods are exact.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from maskmill.cluster._number import NumberParams, UpTo10000
from maskmill.errors import NumericsError
from maskmill.recipe.base import Model
from maskmill.store.codebook import Codebook, assign

if TYPE_CHECKING:
    from maskmill.numerics.points import Source

BLOCK = 16384  # rows of an array looked at together


class NodeParams(Model):
    """Parameters that every method on nodes has."""

    fine: int = Field(1000, ge=2, le=20_000, description="nodes that stand for the points: fine centroids")
    fine_by: Literal["kmeans", "sample"] = Field(
        "kmeans", description="nodes are k-means centroids, or points drawn at random (they follow the density)"
    )
    spherical: bool = Field(True, description="cosine geometry; false: Euclidean")


class CountedParams(NodeParams, NumberParams):
    """Parameters of methods on nodes that are told how many clusters to make, or choose the number."""

    clusters: UpTo10000 = Field(8, description="number of clusters k; auto: chosen from the data")

    @model_validator(mode="after")
    def _enough(self) -> CountedParams:
        most, key = (self.range[1], "the end of range") if self.range else (self.count, "clusters")
        if self.fine < most:
            raise ValueError(f"fine must be at least {key} ({most})")
        return self


@dataclass(frozen=True)
class Nodes:
    """Nodes of a set of points.

    Attributes:
        raw: [m, d] float32 distinct centroids, of unit length when spherical.
        x: [m, d] float32, the same made ready: of unit length, or centred and scaled.
        counts: [m] int64, points nearest to each.
        inertia: sum of the points' distances to their nodes, as `codebook.assign` measures them.
    """

    raw: np.ndarray
    x: np.ndarray
    counts: np.ndarray
    inertia: float
    spherical: bool

    def __len__(self) -> int:
        return len(self.raw)


def summarise(source: Source, params: NodeParams, seed: int, device: str, clusters: int | None = None) -> Nodes:
    """Nodes of points that are in memory [n, d] or come in blocks.

    Raises:
        NumericsError: NaN, no points, all points equal, or fewer distinct ones than `clusters`.
    """
    from maskmill.numerics.blocks import one_thread
    from maskmill.numerics.points import prepare

    few = distinct_points(blocks_of(source), params.fine)
    raw, counts, inertia = few if few is not None else _many(source, params, seed, device, clusters or 2)
    with one_thread() as threads:
        x = prepare(raw, params.spherical, threads).array
    assert x is not None
    kept = counts > 0
    if params.spherical:
        kept &= np.linalg.norm(x, axis=1) > 0.5  # a vector of zeros has no direction, and is no node
        raw = x
    if kept.sum() < (clusters or 2):
        raise too_few(int(kept.sum()), clusters)
    return Nodes(raw[kept], x[kept], counts[kept], inertia, params.spherical)


def too_few(found: int, clusters: int | None) -> NumericsError:
    """What is wrong with so few distinct vectors."""
    if found < 2:
        return NumericsError(
            "cluster: all vectors are equal, there is nothing to cluster; check the features or the reduction"
        )
    return NumericsError(
        f"cluster.clusters: {clusters} clusters for {found} distinct vectors; set cluster.clusters to {found} or less, "
        "or use more images"
    )


def blocks_of(source: Source) -> Iterator[np.ndarray]:
    if not isinstance(source, np.ndarray):
        return source()
    return (source[start : start + BLOCK] for start in range(0, len(source), BLOCK))


def distinct_points(blocks: Iterator[np.ndarray], limit: int) -> tuple[np.ndarray, np.ndarray, float] | None:
    """The distinct points in order and how often each is there; None as soon as they are more than `limit`."""
    known: dict[bytes, int] = {}
    rows: list[np.ndarray] = []
    counts: list[int] = []
    for block in blocks:
        for row in block.astype(np.float32) + np.float32(0):  # + 0 makes -0 equal to 0
            place = known.setdefault(row.tobytes(), len(rows))
            if place == limit:
                return None
            if place == len(rows):
                rows.append(row)
                counts.append(0)
            counts[place] += 1
    if not rows:
        raise NumericsError("cluster: there are no vectors to cluster; check that the cut finds segments (cut.method)")
    return np.stack(rows), np.array(counts, np.int64), 0.0


def _many(
    source: Source, params: NodeParams, seed: int, device: str, least: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """Centroids [m, d], counts [m] and inertia of more points than nodes; at least `least` that differ."""
    from maskmill.numerics import kmeans
    from maskmill.numerics.neighbours import unit_rows

    if params.fine_by == "kmeans":
        own = kmeans.Settings(clusters=params.fine, spherical=params.spherical, restarts=1, tolerance=1e-3)
        book, _ = kmeans.fit(source, own, seed, device, "cluster.fine")
        return book.centroids, book.counts, book.inertia
    raw = draw_points(source, params.fine, seed, least)
    book = Codebook(unit_rows(raw) if params.spherical else raw, np.zeros(len(raw), np.int64), 0.0, params.spherical)
    counts, inertia = np.zeros(len(raw), np.int64), 0.0
    for block in blocks_of(source):
        labels, distances = assign(block, book)
        counts += np.bincount(labels, minlength=len(raw))
        inertia += float(distances.sum(dtype=np.float64))
    return raw, counts, inertia


def draw_points(source: Source, size: int, seed: int, least: int) -> np.ndarray:
    """`size` points drawn without replacement, without repeats [m, d] float32; m is at least `least`.

    Where most points are copies of a few, those drawn may be too few; then distinct points are added to them.
    """
    from maskmill.numerics.sampling import rng

    total = sum(len(block) for block in blocks_of(source))
    rows = np.sort(rng(seed, "cluster", "nodes").choice(total, min(size, total), replace=False, shuffle=False))
    parts, start = [], 0
    for block in blocks_of(source):
        inside = rows[np.searchsorted(rows, start) : np.searchsorted(rows, start + len(block))] - start
        parts.append(block[inside].astype(np.float32))
        start += len(block)
    drawn = _unique(np.concatenate(parts))
    if len(drawn) >= least:
        return drawn
    return _unique(np.concatenate([drawn, draw_distinct(blocks_of(source), size, seed)]))[:size]


def draw_distinct(blocks: Iterator[np.ndarray], size: int, seed: int) -> np.ndarray:
    """`size` of the distinct points (all, where they are fewer) [m, d] float32, each of them as likely as any other.

    Every point has a random number that its coordinates say, so copies have the same; the smallest ones are drawn. That
    takes one pass, memory for what is drawn, and no account of how the points come in blocks.
    """
    from maskmill.numerics.sampling import rng

    draws = rng(seed, "cluster", "distinct")
    offset = draws.integers(1 << 64, dtype=np.uint64)
    factors: np.ndarray | None = None
    kept, marks = np.zeros((0, 0), np.float32), np.zeros(0, np.uint64)
    for block in blocks:
        for start in range(0, len(block), BLOCK):
            x = block[start : start + BLOCK].astype(np.float32) + np.float32(0)  # + 0 makes -0 equal to 0
            if factors is None:
                odd = draws.integers(0, 1 << 63, size=x.shape[1], dtype=np.uint64) * np.uint64(2) + np.uint64(1)
                factors = np.asarray(odd)
                kept = x[:0]
            mark = np.full(len(x), offset)
            for column, factor in zip(x.view(np.uint32).T, factors, strict=True):  # multiply-shift, modulo 2^64
                mark += column.astype(np.uint64) * factor
            both = np.concatenate([marks, mark])
            marks, first = np.unique(both, return_index=True)
            marks, first = marks[:size], first[:size]
            kept = np.concatenate([kept, x])[first]
    return kept


def _unique(x: np.ndarray) -> np.ndarray:
    """The distinct rows of x [n, d], in order."""
    return x[np.sort(np.unique(x, axis=0, return_index=True)[1])]


def codebook_of(nodes: Nodes, labels: np.ndarray, diagnostics: Mapping[str, Any]) -> tuple[Codebook, dict[str, Any]]:
    """The codebook of labelled nodes [m] (-1: noise): largest cluster first, equal ones by their first node."""
    points, heads = cluster_sizes(nodes, labels)
    order = np.lexsort([heads, -points])
    rank = np.append(np.argsort(order), len(order))  # the last is noise
    group = rank[labels]
    rows = np.lexsort([np.arange(len(nodes)), -nodes.counts, group])
    stored = {key: np.atleast_1d(np.asarray(value, dtype=np.float64)) for key, value in diagnostics.items()}
    sorted_group = np.where(group[rows] == len(order), -1, group[rows]).astype(np.int32)
    book = Codebook(
        nodes.raw[rows], points[order], nodes.inertia, nodes.spherical,
        stored | {"node_counts": nodes.counts[rows].astype(np.float64)}, group=sorted_group,
    )  # fmt: skip
    return book, dict(diagnostics)


def cluster_sizes(nodes: Nodes, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points [k] int64 and the first node [k] of each cluster 0..k-1; noise is left out."""
    inside = labels >= 0
    k = int(labels.max()) + 1
    points = np.zeros(k, np.int64)
    np.add.at(points, labels[inside], nodes.counts[inside])
    heads = np.full(k, len(labels))
    np.minimum.at(heads, labels[inside], np.flatnonzero(inside))
    return points, heads

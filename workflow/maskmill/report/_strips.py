"""What shows a cluster to a person: typical and doubtful pieces, its share, the clusters most like it; on arrays."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from maskmill.store.codebook import Codebook

Box = tuple[float, float, float, float]
SMALL = 0.008  # doubtful pieces below this share of an image are shown last: slivers at borders say nothing
BLOCK = 1024  # centroids whose scores are held at once
AN_IMAGE = 2  # pieces of one cluster in one image that are considered


@dataclass(frozen=True)
class Layer:
    """One image of the survey: clusters [h, w] (cluster + 1, 0 none) and margins uint8 [h, w] (0 tie, 255 sure)."""

    values: np.ndarray
    margins: np.ndarray


@dataclass(frozen=True)
class Piece:
    """A connected piece of a cluster: image, box y0, x0, y1, x1 in 0..1, mean margin in 0..1, number in the image."""

    image: str
    box: Box
    margin: float
    number: int


@dataclass(frozen=True)
class Strips:
    """The pieces of one cluster: those that are most clearly of it, and those that are nearly of another one."""

    typical: tuple[Piece, ...]
    doubtful: tuple[Piece, ...]


def components(values: np.ndarray) -> np.ndarray:
    """Numbers int32 [h, w] of the connected pieces of equal values [h, w] (4-neighbours), from 0."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    cells = np.arange(values.size).reshape(values.shape)
    across, down = values[:, 1:] == values[:, :-1], values[1:] == values[:-1]
    start = np.concatenate([cells[:, :-1][across], cells[:-1][down]])
    end = np.concatenate([cells[:, 1:][across], cells[1:][down]])
    graph = coo_array((np.ones(len(start), bool), (start, end)), shape=(values.size, values.size))
    return np.asarray(connected_components(graph, directed=False)[1].reshape(values.shape), np.int32)


def strips(layers: Mapping[str, Layer], clusters: int, typical: int, doubtful: int) -> list[Strips]:
    """The pieces that show each of `clusters` clusters, in the order of the clusters.

    Typical are the pieces with the largest sum of margins, doubtful the ones with the smallest mean margin; of every
    image one before a second one of any. A piece that is typical is not shown as doubtful.
    """
    sure: list[list[tuple[float, Piece]]] = [[] for _ in range(clusters)]
    torn: list[list[tuple[float, Piece]]] = [[] for _ in range(clusters)]
    for image, layer in layers.items() if typical or doubtful else ():
        for value, rows in _pieces(image, layer).items():
            if 1 <= value <= clusters:
                sure[value - 1] += sorted(((-total, piece) for total, _, piece in rows), key=_first)[:AN_IMAGE]
                ranks = ((piece.margin + small, piece) for _, small, piece in rows)
                torn[value - 1] += sorted(ranks, key=_first)[: AN_IMAGE + 1]
    found = []
    for clear, unclear in zip(sure, torn, strict=True):
        first = _spread(clear, typical)
        taken = {(piece.image, piece.number) for piece in first}
        rest = [row for row in unclear if (row[1].image, row[1].number) not in taken]
        found.append(Strips(first, _spread(rest, doubtful)))
    return found


def _first(row: tuple[float, Piece]) -> tuple[float, int]:
    return row[0], row[1].number


def _pieces(image: str, layer: Layer) -> dict[int, list[tuple[float, bool, Piece]]]:
    """{mask value: [(sum of margins, small, piece)]} of an image."""
    from scipy.ndimage import find_objects

    numbers = components(layer.values)
    h, w = numbers.shape
    area = np.bincount(numbers.ravel())
    total = np.bincount(numbers.ravel(), weights=layer.margins.ravel()) / 255
    value = np.zeros(len(area), np.int64)
    value[numbers.ravel()] = layer.values.ravel()
    found: dict[int, list[tuple[float, bool, Piece]]] = {}
    for number, (rows, columns) in enumerate(find_objects(numbers + 1)):
        box = (rows.start / h, columns.start / w, rows.stop / h, columns.stop / w)
        piece = Piece(image, box, float(total[number] / area[number]), number)
        small = bool(area[number] < SMALL * numbers.size)
        found.setdefault(int(value[number]), []).append((float(total[number]), small, piece))
    return found


def _spread(rows: Sequence[tuple[float, Piece]], count: int) -> tuple[Piece, ...]:
    """The `count` pieces of least rank, but the best of every image before the second of any."""
    turn: dict[str, int] = {}
    ranked = []
    for rank, piece in sorted(rows, key=lambda row: (row[0], row[1].image, row[1].number)):
        turn[piece.image] = turn.get(piece.image, 0) + 1
        ranked.append((turn[piece.image], rank, piece.image, piece.number, piece))
    return tuple(row[-1] for row in sorted(ranked, key=lambda row: row[:4])[:count])


def shares(layers: Mapping[str, Layer], clusters: int) -> np.ndarray:
    """Share of the average image that each cluster covers, float64 [k]."""
    found = np.zeros(clusters)
    for layer in layers.values():
        found += (np.bincount(layer.values.ravel(), minlength=clusters + 1) / layer.values.size)[1 : clusters + 1]
    return found / max(1, len(layers))


def neighbours(book: Codebook, count: int) -> np.ndarray:
    """The `count` clusters (or all others) whose centroids are nearest to each cluster's, nearest first: int [k, n].

    Near in the codebook's own geometry; of clusters with several centroids the nearest pair counts.
    """
    k = len(book)
    if k < 2:
        return np.zeros((k, 0), np.int64)
    kept = slice(None) if book.group is None else book.group >= 0
    centroids = book.centroids[kept].astype(np.float32)
    group = np.arange(k) if book.group is None else book.group[kept]
    if not book.spherical:
        centroids = centroids - centroids.mean(axis=0, keepdims=True)
    starts = np.flatnonzero(np.diff(group, prepend=-1))
    squares = (centroids**2).sum(axis=1)
    near = np.full((k, k), -np.inf, np.float32)
    for first in range(0, len(centroids), BLOCK):
        rows = slice(first, first + BLOCK)
        score = centroids[rows] @ centroids.T  # [b, m]
        if not book.spherical:
            score = 2 * score - squares[rows, None] - squares
        best = np.full((len(score), k), -np.inf, np.float32)
        best[:, group[starts]] = np.maximum.reduceat(score, starts, axis=1)
        np.maximum.at(near, group[rows], best)
    np.fill_diagonal(near, -np.inf)
    return np.argsort(-near, axis=1, kind="stable")[:, : min(count, k - 1)]


def coarser(values: np.ndarray, side: int) -> np.ndarray:
    """Every so many-th row and column of [h, w], so that neither side is longer than `side`."""
    step = max(1, -(-max(values.shape) // side))
    return values[step // 2 :: step, step // 2 :: step] if step > 1 else values


def packed(values: np.ndarray) -> str:
    """Unsigned values [h, w] row by row as (value, run length) pairs of LEB128 numbers, in base64."""
    flat = values.ravel().astype(np.int64)
    starts = np.flatnonzero(np.diff(flat, prepend=-1))
    runs = np.diff(starts, append=flat.size)
    out = bytearray()
    for number in np.stack([flat[starts], runs], axis=1).ravel().tolist():
        while number > 127:
            out.append(number & 127 | 128)
            number >>= 7
        out.append(number)
    return base64.b64encode(bytes(out)).decode()

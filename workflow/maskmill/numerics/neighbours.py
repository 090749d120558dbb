"""Nearest neighbours in a bounded set of points: all pairs in blocks, or NN-descent where all pairs are too many.

The results do not depend on the number of threads. Distances are Euclidean, or 1 - cosine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from maskmill.errors import NumericsError

if TYPE_CHECKING:
    import scipy.sparse as sp

Metric = Literal["euclidean", "cosine"]
EXACT_POINTS = 50_000  # up to here the neighbours of the points among themselves are exact
ROWS, COLUMNS = 1024, 16384  # a block of scores: 64 MiB


@dataclass(frozen=True)
class NeighbourIndex:
    """Points whose neighbours are asked for.

    Attributes:
        stage: that asks, for messages.
        ready: [n, d] float32: of unit length (cosine; a vector of zeros stays zero), or centred (products of centred
            vectors cancel least in float32).
        metric: euclidean or cosine. centre: [d] float32, zero for cosine.
    """

    ready: np.ndarray
    metric: Metric
    centre: np.ndarray
    stage: str

    @classmethod
    def of(cls, x: np.ndarray, metric: Metric, stage: str) -> NeighbourIndex:
        """From vectors [n, d] of floats, for a stage."""
        centre = x.mean(axis=0, dtype=np.float64) if metric == "euclidean" else np.zeros(x.shape[1])
        blank = cls(np.zeros((0, x.shape[1]), np.float32), metric, centre.astype(np.float32), stage)
        return cls(blank.prepare(x), metric, blank.centre, stage)

    def __len__(self) -> int:
        return len(self.ready)

    def prepare(self, x: np.ndarray) -> np.ndarray:
        """Vectors [m, d] in the form of `ready`; NaN, infinite values and another length are a NumericsError."""
        if x.shape[1] != len(self.centre):
            raise NumericsError(
                f"{self.stage}: vectors of length {x.shape[1]} do not fit a model of {len(self.centre)}; "
                "they must come from the features that the model was fitted on"
            )
        x = x.astype(np.float32)
        with np.errstate(invalid="ignore"):  # reported as an error below
            if self.metric == "euclidean":
                ready = x - self.centre
            else:
                norms = np.sqrt(np.einsum("ij,ij->i", x, x, dtype=np.float64)).astype(np.float32)
                ready = x / np.maximum(norms, np.finfo(np.float32).tiny)[:, None]
        if not np.isfinite(ready).all():
            raise NumericsError(
                f"{self.stage}: the vectors hold NaN or infinite values; check the features that made them"
            )
        return np.ascontiguousarray(ready)

    def nearest(self, x: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest points of each prepared vector x [m, d], exact up to ties within float32 rounding.

        Returns:
            indices [m, k] int64 and distances [m, k] float32, nearest first, ties by index.
        """
        import torch

        from maskmill.numerics.blocks import one_thread, ordered

        points = torch.from_numpy(self.ready)
        half = points.square().sum(1).div_(2)  # |p|^2 / 2

        def block(start: int) -> tuple[np.ndarray, np.ndarray]:
            rows = torch.from_numpy(x[start : start + ROWS])
            best, found = torch.zeros(len(rows), 0), torch.zeros(len(rows), 0, dtype=torch.int64)
            for first in range(0, len(points), COLUMNS):
                part = slice(first, first + COLUMNS)
                score = torch.addmm(half[part], rows, points[part].T, beta=-1)  # the larger, the nearer
                top, at = score.topk(min(k, score.shape[1]), dim=1)
                best, found = torch.cat([best, top], 1), torch.cat([found, at + first], 1)
                best, keep = best.topk(min(k, best.shape[1]), dim=1)
                found = found.gather(1, keep)
            return self._sorted(x[start : start + ROWS], found.numpy())

        with one_thread() as threads:
            parts = list(ordered(block, range(0, len(x), ROWS), threads))
        if not parts:
            return np.zeros((0, k), np.int64), np.zeros((0, k), np.float32)
        return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])

    def reached(self, x: np.ndarray, radius: np.ndarray) -> sp.csr_array:
        """Which points have each prepared vector x [m, d] within their radius [n]: ones in a sparse [m, n]."""
        import scipy.sparse as sp
        import torch

        from maskmill.numerics.blocks import one_thread, ordered

        points = torch.from_numpy(self.ready)
        reach = torch.from_numpy((2 * radius if self.metric == "cosine" else radius**2).astype(np.float32))
        least = (points.square().sum(1) - reach).div_(2)  # reached where x p >= |x|^2 / 2 + (|p|^2 - r^2) / 2

        def block(start: int) -> tuple[np.ndarray, np.ndarray]:
            rows = torch.from_numpy(x[start : start + ROWS])
            half = rows.square().sum(1).div_(2)[:, None]
            pairs = []
            for first in range(0, len(points), COLUMNS):
                part = slice(first, first + COLUMNS)
                score = torch.addmm(least[part], rows, points[part].T, beta=-1)
                pairs.append((score >= half).nonzero() + torch.tensor([start, first]))
            pair = torch.cat(pairs).numpy()
            return pair[:, 0], pair[:, 1]

        with one_thread() as threads:
            parts = list(ordered(block, range(0, len(x), ROWS), threads))
        row, column = (np.concatenate([p[i] for p in parts]) if parts else np.zeros(0, np.int64) for i in (0, 1))
        return sp.csr_array((np.ones(len(row)), (row, column)), shape=(len(x), len(self)))

    def _sorted(self, x: np.ndarray, found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Candidates [m, k] with their distances from differences, not from products, nearest first."""
        found = np.sort(found, axis=1)  # ties by index
        distances: np.ndarray = np.empty(found.shape, np.float32)
        for column in range(found.shape[1]):
            delta = x - self.ready[found[:, column]]
            square = np.einsum("ij,ij->i", delta, delta, dtype=np.float64)
            distances[:, column] = square / 2 if self.metric == "cosine" else np.sqrt(square)
        order = np.argsort(distances, axis=1, kind="stable")
        return np.take_along_axis(found, order, 1), np.take_along_axis(distances, order, 1)

    def graph(self, k: int, seed: int, exact: int = EXACT_POINTS) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest points of every point, itself the first: indices [n, k] int64, distances [n, k] float32.

        All pairs up to `exact` points, else pynndescent with the seed.
        """
        if len(self) <= exact:
            found, distances = self.nearest(self.ready, k)
        else:
            found, distances = self._descent(k, seed)
        # Rounding among more than k almost equal points may drop the point itself.
        lost = found[:, 0] != np.arange(len(self))
        if lost.any():
            rows = np.flatnonzero(lost)
            others = found[rows]
            mine = others == rows[:, None]
            mine[~mine.any(axis=1), -1] = True  # the point takes the place of the farthest neighbour
            rest = others[~mine].reshape(len(rows), k - 1)
            found[rows] = np.concatenate([rows[:, None], rest], 1)
            found[rows, 1:], distances[rows, 1:] = self._sorted(self.ready[rows], rest)
            distances[rows, 0] = 0
        return found, distances

    def _descent(self, k: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        index: Any
        from pynndescent import NNDescent

        from maskmill.numerics.blocks import one_thread, ordered

        with one_thread() as threads:
            # On one thread: its parallel updates give other neighbours with another number of threads.
            index = NNDescent(self.ready, metric="euclidean", n_neighbors=k, random_state=seed, n_jobs=1)
            found = np.asarray(index.neighbor_graph[0], dtype=np.int64)
            del index
            missing = np.flatnonzero((found < 0).any(axis=1))
            if len(missing):
                found[missing] = self.nearest(self.ready[missing], k)[0]
            step = 8192

            def block(start: int) -> tuple[np.ndarray, np.ndarray]:
                return self._sorted(self.ready[start : start + step], found[start : start + step])

            parts = list(ordered(block, range(0, len(self), step), threads))
        return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])


def unit_rows(x: np.ndarray) -> np.ndarray:
    """Rows [m, d] of unit length; a row of zeros stays zero."""
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), np.finfo(np.float32).tiny)

"""An engine of k-means whose points do not fit into memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from maskmill.numerics.points import PreparedPoints


class Stream:
    """Points that do not fit into memory: every step reads them once."""

    def __init__(self, points: PreparedPoints, clusters: int, make: Any) -> None:
        self.points, self.clusters, self.make = points, clusters, make
        self.centroids = np.zeros(0)

    def step(self, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `maskmill.numerics.lloyd.Engine`."""
        self.centroids = centroids
        sums, counts = np.zeros(centroids.shape), np.zeros(self.clusters, np.int64)
        for block in self.points.blocks():
            s, n = self.make(block).step(centroids)
            sums, counts = sums + s, counts + n
        return sums, counts

    def farthest(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """See `maskmill.numerics.lloyd.Engine`."""
        distance, rows = np.zeros(0), np.zeros((0, self.points.depth), np.float32)
        for block in self.points.blocks():
            engine = self.make(block)
            engine.step(self.centroids)
            d, x = engine.farthest(count)
            distance, rows = np.concatenate([distance, d]), np.concatenate([rows, x])
            order = np.argsort(-distance, kind="stable")[:count]
            distance, rows = distance[order], rows[order]
        return distance, rows

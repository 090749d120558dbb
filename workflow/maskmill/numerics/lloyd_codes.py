"""Steps of k-means on product codes: distances from tables, sums from histograms, no vector is ever decoded.

The product of a centroid with a vector is the sum over the bytes of its code of the products with the parts (the
asymmetric distance of Jegou et al., PAMI 2011), and the sum of vectors is the histogram of their bytes times the
centroids of the parts. Both are exact, so the steps are those on the decoded vectors, to rounding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from maskmill.jit import compiler
from maskmill.numerics.blocks import ordered
from maskmill.numerics.kmeans_stream import Stream
from maskmill.store.product import LETTERS

if TYPE_CHECKING:
    from maskmill.numerics.points import CodedPoints, PreparedPoints
    from maskmill.store.product import Codec

HISTOGRAMS = 32 << 20  # bytes of those of a block: 512 clusters of 32 bytes; with more, steps on vectors are as fast
_compile = compiler(fastmath={"contract", "nsz"})


def fits(codec: Codec, clusters: int) -> bool:
    """Whether a step of so many clusters is faster on codes than on vectors that are decoded for it."""
    return 8 * clusters * codec.bytes * LETTERS <= HISTOGRAMS


@_compile
def _step(codes, tables, shift, weights, scores, counts, histograms) -> None:  # type: ignore[no-untyped-def]
    """Codes [n, m] to the cluster of the least shift[j] - weights[i] * sum of tables[p, codes[i, p], j]."""
    n, m = codes.shape
    k = shift.shape[0]
    for i in range(n):
        for j in range(k):
            scores[j] = 0
        for p in range(m):
            row = tables[p, codes[i, p]]
            for j in range(k):
                scores[j] += row[j]
        weight, best, least = weights[i], 0, np.float32(np.inf)
        for j in range(k):
            value = shift[j] - weight * scores[j]
            if value < least:
                least, best = value, j
        counts[best] += 1
        for p in range(m):
            histograms[best, p, codes[i, p]] += weight


class CodedStream(Stream):
    """`Stream` of points that are codes: every step reads the codes once."""

    def __init__(self, source: CodedPoints, points: PreparedPoints, clusters: int, make: Any, threads: int) -> None:
        super().__init__(points, clusters, make)
        self.source, self.threads, codec, frame = source, threads, source.codec, points.frame
        self.rotation = codec.rotation.astype(np.float64)
        parts = codec.centroids.astype(
            np.float64
        )  # [m, 256, s] of prepared vectors, but for the length of spherical ones
        if not frame.spherical:
            offset = (self.rotation @ frame.shift.astype(np.float64)).reshape(len(parts), 1, -1)
            parts = (parts - offset) / frame.scale
        self.parts = parts

    def step(self, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `maskmill.numerics.lloyd.Engine`."""
        self.centroids = centroids
        turned = (centroids.astype(np.float64) @ self.rotation.T).reshape(self.clusters, len(self.parts), -1)
        tables = np.ascontiguousarray(2 * np.matmul(self.parts, turned.transpose(1, 2, 0)), np.float32)  # [m, 256, k]
        shift = np.square(turned).sum((1, 2)).astype(np.float32)

        def block(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            counts = np.zeros(self.clusters, np.int64)
            histograms = np.zeros((self.clusters, len(self.parts), LETTERS))
            _step(codes, tables, shift, self._weights(codes), np.zeros(self.clusters, np.float32), counts, histograms)
            return counts, histograms

        counts, total = np.zeros(self.clusters, np.int64), np.zeros((self.clusters, len(self.parts), LETTERS))
        for n, histograms in ordered(block, self.source.codes(), self.threads):
            counts, total = counts + n, total + histograms
        sums = np.matmul(total.transpose(1, 0, 2), self.parts).transpose(1, 0, 2).reshape(self.clusters, -1)
        return sums @ self.rotation, counts

    def _weights(self, codes: np.ndarray) -> np.ndarray:
        """What makes each vector a prepared one, [n] float32: 1 over its length where that is 1."""
        if not self.points.frame.spherical:
            return np.ones(len(codes), np.float32)
        squares = self.source.codec.squares[np.arange(len(self.parts)), codes].sum(1)
        return (1 / np.sqrt(np.maximum(squares, np.finfo(np.float32).tiny))).astype(np.float32)

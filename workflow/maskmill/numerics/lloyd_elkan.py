"""A bound on the distance of every point to every centroid, for many clusters, where one bound a point settles little.

Elkan, Using the triangle inequality to accelerate k-means (2003). A stored bound is a distance that was computed once,
plus how far its centroid had moved in all until then; less how far the centroid has moved by now, it is a lower bound
of today's distance. So a step rewrites no bound that it does not renew. Bounds are uint16 in steps of a fixed size,
rounded down: n k 2 bytes.
"""

from __future__ import annotations

import numpy as np
import torch

from maskmill.jit import compiler
from maskmill.numerics.chord import FAST, chord

CLUSTERS = 100  # fewer clusters have one bound a point
PAIRS = 1 << 22  # points times clusters: below it, products are as fast
BYTES = 512 << 20  # bounds that are held at most
WORTH = 0.15  # bounds that leave more than this share of the distances open cost more than products,
PLAIN_STEPS = 2  # which take over for this many steps
TOP = 65535
ROUNDING = 1e-6  # of a squared distance by a product, over the square of the largest distance
REACH = 4.0  # the largest bound, over the largest distance when the steps are chosen

_compile = compiler(fastmath=FAST)


def worthwhile(points: int, clusters: int) -> bool:
    """True where a problem is large enough for bounds of all pairs, and they fit into memory."""
    pairs = points * clusters
    return clusters >= CLUSTERS and PAIRS <= pairs <= BYTES // 2


@_compile
def _fill(product, c2, x2, bounds, low, scale, margin) -> None:  # type: ignore[no-untyped-def]
    """Bounds [m, k] of rows from their product [k, m] = -2 c x."""
    k, m = product.shape
    found = np.empty(m, np.int32)
    for j in range(k):
        shift, moved, row = c2[j] - margin, low[j] - 1, product[j]
        for t in range(m):
            steps = np.int32(np.sqrt(max(row[t] + shift + x2[t], np.float32(0))) * scale) + moved
            found[t] = min(max(steps, 0), 65535)
        for t in range(m):
            bounds[t, j] = found[t]


@_compile
def _settle(x, c, labels, bounds, low, high, scale, sums, counts, near) -> int:  # type: ignore[no-untyped-def]
    """Label all rows of x [n, d]; rows that change move between the sums. Returns how many distances were computed."""
    k, done = c.shape[0], 0
    for i in range(x.shape[0]):
        old = labels[i]
        best = chord(x[i], c[old])
        bounds[i, old] = min(max(np.int32(best * scale) + low[old] - 1, 0), 65535)
        reach = np.int32(best * scale) + 2
        m = 0
        for j in range(k):
            near[m] = j
            m += bounds[i, j] < reach + high[j]
        new = old
        for r in range(m):
            j = near[r]
            if j == old or bounds[i, j] >= reach + high[j]:
                continue
            apart = chord(x[i], c[j])
            done += 1
            bounds[i, j] = min(max(np.int32(apart * scale) + low[j] - 1, 0), 65535)
            if apart < best or (apart == best and j < new):
                best, new = apart, np.int32(j)
                reach = np.int32(best * scale) + 2
        if new != old:
            labels[i] = new
            counts[new] += 1
            counts[old] -= 1
            for q in range(x.shape[1]):
                sums[new, q] += x[i, q]
                sums[old, q] -= x[i, q]
    return done


class Bounds:
    """Bounds [n, k] of the points of one engine."""

    def __init__(self, points: int, clusters: int, farthest: float) -> None:
        """Args: farthest: a distance that no point has from a centroid."""
        self.values = np.zeros((points, clusters), np.uint16)
        farthest = max(farthest, 1e-12)
        self.scale = np.float32(TOP / (REACH * farthest))
        self.margin = np.float32(ROUNDING * farthest**2)
        self.moved = np.zeros(clusters)
        self.low = np.zeros(clusters, np.int32)
        self.high = np.zeros(clusters, np.int32)

    def move(self, drift: np.ndarray) -> None:
        """The centroids have moved by `drift` [k] since the last step."""
        self.moved += drift
        steps = self.moved * float(self.scale)
        if steps.max() > TOP / 2:
            self.start()
            return
        self.low[:], self.high[:] = np.floor(steps), np.ceil(steps) + 1

    def start(self) -> None:
        """Nothing is known: all bounds are 0."""
        self.values[:] = 0
        self.moved[:], self.low[:], self.high[:] = 0, 0, 0

    def fill(self, cut: slice, product: torch.Tensor, c2: np.ndarray, x2: np.ndarray) -> None:
        """Bounds of the rows of `cut`, of which -2 c x [k, m] is known; x2 [m], c2 [k]: squared lengths."""
        _fill(product.numpy(), c2, x2, self.values[cut], self.low, self.scale, self.margin)

    def settle(
        self, cut: slice, x: np.ndarray, c: np.ndarray, labels: np.ndarray, sums: np.ndarray, counts: np.ndarray
    ) -> int:
        """Label the rows x [n, d] of a part; returns how many distances were computed."""
        near = np.empty(len(c) + 1, np.int32)
        return int(_settle(x, c, labels, self.values[cut], self.low, self.high, self.scale, sums, counts, near))

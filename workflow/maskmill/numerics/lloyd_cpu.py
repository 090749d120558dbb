"""One exact k-means step on the CPU: Hamerly's bounds, and matrix products for the rows whose label they leave open.

Where there are many clusters, one bound a point settles little: Elkan's are used (`maskmill.numerics.lloyd_elkan`).
Rows are cut into parts that depend on the problem only; each part has its own float64 sums and runs its products on
one thread, so that any number of threads gives the same bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from maskmill.jit import compiler
from maskmill.numerics import lloyd_elkan
from maskmill.numerics.blocks import ordered
from maskmill.numerics.chord import FAST, chord

PRODUCT_BYTES = 512 << 10  # products held at once by a thread: about its L2 cache
SUM_BYTES = 256 << 20  # float64 sums of all parts together
WORTH = 0.7  # bounds that leave more than this share of the rows undecided cost more than they save,
PLAIN_STEPS = 4  # and are left out for this many steps
_compile = compiler(fastmath=FAST)


@_compile
def _undecided(x, c, labels, upper, lower, drift, rest, half, rows) -> int:  # type: ignore[no-untyped-def]
    """Move the bounds with the centroids; collect the rows [m] whose label the bounds do not prove. Returns m."""
    m = 0
    for i in range(x.shape[0]):
        a = labels[i]
        upper[i] += drift[a]
        lower[i] -= rest[a]
        bound = max(lower[i], half[a])
        if upper[i] <= bound:
            continue
        upper[i] = chord(x[i], c[a])
        if upper[i] <= bound:
            continue
        rows[m] = i
        m += 1
    return m


@_compile
def _gather(x, rows, out) -> None:  # type: ignore[no-untyped-def]
    for r in range(rows.shape[0]):
        i = rows[r]
        for t in range(x.shape[1]):
            out[r, t] = x[i, t]


@_compile
def _relabel(x, rows, product, c2, x2, labels, upper, lower, sums, counts, best, second, index) -> None:  # type: ignore[no-untyped-def]
    """Closest and second closest of the rows, from product [k, m] = -2 c x; rows that change move between the sums."""
    k, m = product.shape
    tile = best.shape[0]
    for start in range(0, m, tile):
        stop = min(start + tile, m)
        width = stop - start
        for t in range(width):
            best[t] = np.float32(np.inf)
            second[t] = np.float32(np.inf)
            index[t] = 0
        for j in range(0, k, 2):  # two centroids at once: half the loads and stores of best, second, index
            n = min(j + 1, k - 1)  # a last single one meets infinity
            shift, extra = c2[j], c2[n] if n > j else np.float32(np.inf)
            row, next_row = product[j, start:stop], product[n, start:stop]
            for t in range(width):
                one, two = row[t] + shift, next_row[t] + extra
                swap = two < one
                low, high = two if swap else one, one if swap else two
                which = np.int32(n) if swap else np.int32(j)
                old = best[t]
                closer = low < old
                worse = old if closer else low
                worse = high if high < worse else worse
                second[t] = worse if worse < second[t] else second[t]
                best[t] = low if closer else old
                index[t] = which if closer else index[t]
        for t in range(width):
            i = rows[start + t]
            upper[i] = np.sqrt(max(best[t] + x2[i], np.float32(0)))
            lower[i] = np.sqrt(max(second[t] + x2[i], np.float32(0)))
            new, old_label = index[t], labels[i]
            if new != old_label:
                labels[i] = new
                counts[new] += 1
                for q in range(x.shape[1]):
                    sums[new, q] += x[i, q]
                if old_label >= 0:
                    counts[old_label] -= 1
                    for q in range(x.shape[1]):
                        sums[old_label, q] -= x[i, q]


class CpuEngine:
    """Prepared points [n, d] float32 in memory, with labels, bounds and sums kept between steps."""

    def __init__(self, x: np.ndarray, clusters: int, threads: int) -> None:
        self.x, self.k, self.threads = x, clusters, threads
        n, d = x.shape
        parts = int(max(1, min(64, n // 4096, SUM_BYTES // (8 * clusters * d))))
        edges = np.linspace(0, n, parts + 1).astype(np.int64)
        self.parts = [(p, int(edges[p]), int(edges[p + 1])) for p in range(parts)]
        self.x2 = np.einsum("ij,ij->i", x, x)
        self.labels = np.full(n, -1, np.int32)
        self.upper, self.lower = np.zeros(n, np.float32), np.zeros(n, np.float32)
        self.sums = np.zeros((parts, clusters, d))
        self.counts = np.zeros((parts, clusters), np.int64)
        self.centroids: np.ndarray | None = None
        self.plain = 1  # steps to come without bounds: the first one, and some where bounds settle too little
        self.bounds: lloyd_elkan.Bounds | None = None
        if lloyd_elkan.worthwhile(n, clusters):
            self.bounds = lloyd_elkan.Bounds(n, clusters, 2 * float(np.sqrt(self.x2.max())))

    def step(self, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Label every point with its closest centroid [k, d] float32: sums [k, d] float64, counts [k] int64."""
        c = np.ascontiguousarray(centroids, np.float32)
        if self.bounds is not None and self.centroids is not None:
            self.bounds.move(np.linalg.norm(c.astype(np.float64) - self.centroids, axis=1))
        if self.bounds is not None and not self.plain:
            self._settle(c, self.bounds)
        else:
            self._label(c)
        self.centroids = c
        return self.sums.sum(axis=0), self.counts.sum(axis=0)

    def _settle(self, c: np.ndarray, bounds: lloyd_elkan.Bounds) -> None:
        """A step by the bounds of all pairs."""

        def one(part: tuple[int, int, int]) -> int:
            p, cut = part[0], slice(*part[1:])
            return bounds.settle(cut, self.x[cut], c, self.labels[cut], self.sums[p], self.counts[p])

        done = sum(ordered(one, self.parts, self.threads))
        self.plain = lloyd_elkan.PLAIN_STEPS * int(done > lloyd_elkan.WORTH * len(self.x) * self.k)

    def _label(self, c: np.ndarray) -> None:
        """A step by products, of the rows that Hamerly's bounds leave open or of all."""
        moved = None if self.plain or self.centroids is None else self._motion(c)
        scaled, c2 = torch.from_numpy(-2 * c), np.einsum("ij,ij->i", c, c)
        undecided = sum(ordered(lambda part: self._part(part, c, scaled, c2, moved), self.parts, self.threads))
        if self.plain:
            self.plain -= 1
        else:
            self.plain = PLAIN_STEPS * int(undecided > WORTH * len(self.x))

    def _motion(self, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of each centroid [k] float32: its own drift, the largest drift of the others, half the way to the nearest."""
        assert self.centroids is not None
        drift = np.linalg.norm(centroids.astype(np.float64) - self.centroids, axis=1).astype(np.float32)
        order = np.argsort(drift)
        rest = np.full(self.k, drift[order[-1]], np.float32)
        rest[order[-1]] = drift[order[-2]] if self.k > 1 else 0
        c = torch.from_numpy(centroids.astype(np.float64))
        lengths = c.square().sum(1)
        apart = torch.addmm(lengths[:, None] + lengths, c, c.T, alpha=-2).fill_diagonal_(torch.inf).amin(1)  # squared
        return drift, rest, (apart.clamp_min_(0).sqrt().numpy() / 2).astype(np.float32)

    def _part(self, part: tuple[int, int, int], c: np.ndarray, scaled: torch.Tensor, c2: np.ndarray, moved: Any) -> int:
        """One part of a step; returns how many rows needed products."""
        p, start, stop = part
        x, cut = self.x[start:stop], slice(start, stop)
        labels, upper, lower = self.labels[cut], self.upper[cut], self.lower[cut]
        rows = np.arange(stop - start, dtype=np.int64)
        if moved is not None:
            rows = rows[: _undecided(x, c, labels, upper, lower, *moved, rows)]
        width = max(64, min(1024, PRODUCT_BYTES // (4 * self.k)) // 64 * 64)
        flat = torch.empty(self.k * width)
        buffer = np.empty((width, x.shape[1]), np.float32)
        tile = min(width, 256)
        work = np.empty(tile, np.float32), np.empty(tile, np.float32), np.empty(tile, np.int32)
        for first in range(0, len(rows), width):
            some = rows[first : first + width]
            m = len(some)
            if moved is None:
                block = x[first : first + m]
            else:
                _gather(x, some, buffer)
                block = buffer[:m]
            product = flat[: self.k * m].view(self.k, m)
            torch.mm(scaled, torch.from_numpy(block).T, out=product)
            if self.bounds is not None and self.plain == 1:  # the next step is theirs
                place = slice(start + first, start + first + m)
                self.bounds.fill(place, product, c2, self.x2[place])
            _relabel(
                x, some, product.numpy(), c2, self.x2[cut], labels, upper, lower, self.sums[p], self.counts[p], *work
            )  # fmt: skip
        return len(rows)

    def farthest(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The `count` points farthest from their centroid, the lower row first among equals: distances, points."""
        assert self.centroids is not None
        distance = np.concatenate([
            np.linalg.norm(self.x[a:b] - self.centroids[self.labels[a:b]], axis=1) for _, a, b in self.parts
        ])  # fmt: skip
        rows = np.argsort(-distance, kind="stable")[:count]
        return distance[rows], self.x[rows]

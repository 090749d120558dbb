"""Local mixtures: vectors as weighted means of their nearest anchors.

Liu, He and Chang, "Large Graph Construction for Scalable Semi-Supervised Learning" (ICML 2010), section 3: every vector
is written by its few nearest anchors, with weights from a kernel that sum to 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from maskmill.errors import NumericsError

if TYPE_CHECKING:
    import torch

BLOCK_BYTES = 8 << 20  # similarities that a thread holds at once
COLUMNS = 16384  # anchors whose similarities are held at once


@dataclass(frozen=True)
class Anchors:
    """Anchors [m, d] that vectors are written by.

    Attributes:
        points: [m, d] float32. spherical: similarity is the cosine; else minus the squared distance over twice the
            anchors' mean squared length about their mean, which for centred vectors of equal length is cosine - 1.
        nearest: anchors a vector is written by. width: of the kernel exp(similarity / width).
    """

    points: np.ndarray
    spherical: bool
    nearest: int
    width: float

    def weights(self, x: np.ndarray) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        """Blocks of rows of x [n, d], the anchors [b, nearest] int64 of each and their weights, float32, nearest first.

        A row of weights sums to 1.

        Raises:
            NumericsError: another number of dimensions, or NaN or infinite values.
        """
        import torch

        from maskmill.numerics.blocks import one_thread, ordered

        if x.ndim != 2 or x.shape[1] != self.points.shape[1]:
            raise NumericsError(
                f"taxonomy: vectors of shape {x.shape} do not fit centroids of {self.points.shape[1]} dimensions; "
                "they must come from the same features and reduction as the clustering"
            )
        shift, scale = self._frame()
        anchors = torch.from_numpy(self._ready(self.points, shift, scale))
        half = None if self.spherical else anchors.square().sum(1).div_(2)
        count = min(self.nearest, len(anchors))

        def block(rows: slice) -> tuple[slice, np.ndarray, np.ndarray]:
            points = torch.from_numpy(self._ready(x[rows], shift, scale))
            top, found = largest(points, anchors, count, half)
            if not bool(torch.isfinite(top).all()):
                raise NumericsError("taxonomy: the vectors hold NaN or infinite values; check the features")
            return rows, found.numpy(), (top / self.width).softmax(1).numpy()  # |x|^2 / 2 is the same for all anchors

        step = max(1, BLOCK_BYTES // (4 * min(COLUMNS, len(anchors))))
        with one_thread() as threads:
            yield from ordered(block, (slice(a, min(a + step, len(x))) for a in range(0, len(x), step)), threads)

    def mean(self, x: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Values [n, K] float32 of vectors [n, d]: the weighted means of those of their anchors [m, K]."""
        out = np.zeros((len(x), values.shape[1]), np.float32)
        values = values.astype(np.float32)
        for rows, found, weight in self.weights(x):
            for k in range(found.shape[1]):
                out[rows] += weight[:, k, None] * values[found[:, k]]
        return out

    def odds(self, x: np.ndarray, values: np.ndarray) -> np.ndarray:
        """`mean` of shares or votes [m, K], each row divided by its sum; a row of zeros stays."""
        found = self.mean(x, values)
        return np.asarray(found / np.maximum(found.sum(axis=1, keepdims=True), np.finfo(np.float32).tiny))

    def collect(self, x: np.ndarray, values: np.ndarray) -> np.ndarray:
        """What the anchors get [m, K] float64 when every vector gives them its values [n, K], by its weights."""
        import scipy.sparse as sp

        out = np.zeros((len(self.points), values.shape[1]))
        for rows, found, weight in self.weights(x):
            ends = np.arange(0, found.size + 1, found.shape[1])
            give = sp.csr_array((weight.ravel(), found.ravel(), ends), shape=(len(found), len(out)), dtype=np.float64)
            out += give.T @ values[rows].astype(np.float64)
        return out

    def _frame(self) -> tuple[np.ndarray, float]:
        """What is subtracted from points, and what they are divided by, before their products are taken."""
        if self.spherical:
            return np.zeros(self.points.shape[1], np.float32), 1.0
        shift = self.points.mean(axis=0, dtype=np.float64)
        spread = np.square(self.points - shift).sum(axis=1).mean()
        return shift.astype(np.float32), float(np.sqrt(spread)) or 1.0

    def _ready(self, x: np.ndarray, shift: np.ndarray, scale: float) -> np.ndarray:
        x = x.astype(np.float32)
        if not self.spherical:
            return np.asarray((x - shift) / np.float32(scale))
        norms = np.sqrt(np.einsum("ij,ij->i", x, x, dtype=np.float64)).astype(np.float32)
        return np.asarray(x / np.maximum(norms, np.finfo(np.float32).tiny)[:, None])


def largest(
    rows: torch.Tensor, keys: torch.Tensor, count: int, less: torch.Tensor | None = None, columns: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """The largest products of rows [n, d] with keys [m, d]: values and places [n, count], the largest first.

    All keys are compared; only ties within float32 rounding depend on the sizes of the blocks.

    Args:
        less: [m], subtracted from the products with each key. columns: keys compared at once; 0: COLUMNS.
    """
    import torch

    columns = columns or COLUMNS
    best = rows.new_zeros(len(rows), 0)
    found = torch.zeros(len(rows), 0, dtype=torch.int64, device=rows.device)
    for first in range(0, len(keys), columns):
        product = rows @ keys[first : first + columns].T
        if less is not None:
            product -= less[first : first + columns]
        top, at = product.topk(min(count, product.shape[1]), dim=1)
        best, found = torch.cat([best, top], 1), torch.cat([found, at + first], 1)
        best, keep = best.topk(min(count, best.shape[1]), dim=1)
        found = found.gather(1, keep)
    return best, found

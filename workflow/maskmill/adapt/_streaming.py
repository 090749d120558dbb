"""k-means over a stream of batches: a fit to the first ones, then running means of the points nearest each centroid.

Cho, Mall, Bala and Hariharan, PiCIE (CVPR 2021), the clustering of its code.
"""

from __future__ import annotations

import numpy as np
import torch

from maskmill.errors import NumericsError
from maskmill.numerics import kmeans
from maskmill.numerics.sampling import rng

CPU = torch.device("cpu")


class StreamingKMeans:
    """Centroids [k, c] and counts [k] of what `add` has seen; vectors with NaN or too few distinct ones: NumericsError.

    Args:
        params: of the fit. Spherical: cosine geometry, for vectors of unit length; centroids are the means' directions.
        start: batches that the fit is made of; a centroid then moves by share n / N of a batch's mean, with n the
            batch's points that are nearest to it and N all so far, these included.
        points: the most of the first batches that is kept, drawn evenly; counts are scaled to all of them.
        device: where the points are. On CUDA the centroids stay and move there.
    """

    def __init__(self, params: kmeans.Settings, start: int, points: int, seed: int, device: torch.device = CPU) -> None:
        self.params, self.start, self.share = params, start, max(1, points // start)
        self.seed, self.device = seed, device
        self.kept: list[np.ndarray] = []
        self.seen = 0
        self.means: np.ndarray | None = None  # [k, c] float64
        self.counts: np.ndarray = np.zeros(params.clusters)
        self.there: tuple[torch.Tensor, torch.Tensor] | None = None  # both of these on a device that is not the CPU

    def add(self, points: torch.Tensor) -> None:
        """Points [m, c] float32 of one batch."""
        if self.there is not None:
            self.there = moved(points, *self.there, self.params.spherical)
            return
        if self.means is not None:
            self._move(points.numpy())
            return
        self.seen += len(points)
        if len(points) > self.share:
            draws = rng(self.seed, "streaming", str(len(self.kept)))
            rows = np.sort(draws.choice(len(points), self.share, replace=False, shuffle=False))
            points = points[torch.from_numpy(rows).to(points.device)]
        self.kept.append(points.cpu().numpy())
        if len(self.kept) == self.start:
            self._fit()

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """Centroids [k, c] float32 and counts [k] float64."""
        if self.means is None:
            self._fit()
        if self.there is not None:
            self.means, self.counts = (part.cpu().numpy() for part in self.there)
        return self._centroids().astype(np.float32), self.counts

    def _fit(self) -> None:
        x = np.concatenate(self.kept)
        try:
            book, _ = kmeans.fit(x, self.params, self.seed, str(self.device))
        except NumericsError as error:
            advice = "lower adapt.learning_rate (and backbone_rate), or ask for fewer clusters"
            raise NumericsError(
                f"adapt: clusters of the head's features: {error}; the head has collapsed: {advice}"
            ) from error
        self.means = book.centroids.astype(np.float64)
        self.counts = np.bincount(self._nearest(x), minlength=len(self.means)) * (self.seen / len(x))
        self.kept = []
        if self.device.type != "cpu":
            self.there = torch.from_numpy(self.means).to(self.device), torch.from_numpy(self.counts).to(self.device)

    def _move(self, x: np.ndarray) -> None:
        assert self.means is not None
        labels = self._nearest(x)
        sizes = np.bincount(labels, minlength=len(self.means))
        for k in np.flatnonzero(sizes):
            self.counts[k] += sizes[k]
            mean = x[labels == k].mean(0, dtype=np.float64)
            self.means[k] += sizes[k] / self.counts[k] * (mean - self.means[k])

    def _nearest(self, x: np.ndarray) -> np.ndarray:
        return nearest(x, self._centroids())

    def _centroids(self) -> np.ndarray:
        assert self.means is not None
        if not self.params.spherical:
            return self.means
        return self.means / np.maximum(np.linalg.norm(self.means, axis=1, keepdims=True), 1e-12)


def moved(
    x: torch.Tensor, means: torch.Tensor, counts: torch.Tensor, spherical: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Means [k, c] and counts [k] float64 after points x [m, c] of one batch, on their device, where nothing waits.

    Sums are a product with one-hot rows: added one by one they would depend on the order, which differs between runs.
    """
    at = means / means.norm(dim=1, keepdim=True).clamp_min(1e-12) if spherical else means
    c = at.float()
    labels = (x @ c.T - 0.5 * c.square().sum(1)).argmax(1)
    hot = (labels[:, None] == torch.arange(len(c), device=x.device)).to(x.dtype)
    sizes, sums = hot.sum(0, dtype=torch.float64), (hot.T @ x).double()
    counts = counts + sizes
    step = torch.where(sizes > 0, sizes / counts.clamp_min(1), 0.0)[:, None]
    return means + step * (sums / sizes.clamp_min(1)[:, None] - means), counts


def nearest(x: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """The Euclidean nearest centroid of each point [m] int64."""
    c = centroids.astype(np.float32)
    return np.asarray((x @ c.T - 0.5 * np.einsum("kc,kc->k", c, c)).argmax(1))

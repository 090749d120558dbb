"""k-means over a stream of batches: a fit to the first ones, then running means of the points nearest each centroid.

Cho, Mall, Bala and Hariharan, PiCIE (CVPR 2021), the clustering of its code.
"""

from __future__ import annotations

import numpy as np

from maskmill.errors import NumericsError
from maskmill.numerics import kmeans
from maskmill.numerics.sampling import rng


class StreamingKMeans:
    """Centroids [k, c] and counts [k] of what `add` has seen; vectors with NaN or too few distinct ones: NumericsError.

    Args:
        start: batches that the fit is made of; a centroid then moves by share n / N of a batch's mean, with n the
            batch's points that are nearest to it and N all so far, these included.
        points: the most of the first batches that is kept, drawn evenly; counts are scaled to all of them.
        spherical: cosine geometry, for vectors of unit length; centroids are the means' directions.
    """

    def __init__(self, clusters: int, start: int, points: int, iterations: int, seed: int, spherical: bool) -> None:
        self.params = kmeans.Settings(
            clusters=clusters, spherical=spherical, restarts=1, iterations=iterations, tolerance=0.0
        )
        self.start, self.share, self.seed = start, max(1, points // start), seed
        self.kept: list[np.ndarray] = []
        self.seen = 0
        self.means: np.ndarray | None = None  # [k, c] float64
        self.counts: np.ndarray = np.zeros(clusters)

    def add(self, x: np.ndarray) -> None:
        """Points [m, c] float32 of one batch."""
        if self.means is not None:
            self._move(x)
            return
        self.seen += len(x)
        if len(x) > self.share:
            draws = rng(self.seed, "streaming", str(len(self.kept)))
            x = x[np.sort(draws.choice(len(x), self.share, replace=False, shuffle=False))]
        self.kept.append(x)
        if len(self.kept) == self.start:
            self._fit()

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """Centroids [k, c] float32 and counts [k] float64."""
        if self.means is None:
            self._fit()
        return self._centroids().astype(np.float32), self.counts

    def _fit(self) -> None:
        x = np.concatenate(self.kept)
        try:
            book, _ = kmeans.fit(x, self.params, self.seed, "cpu")
        except NumericsError as error:
            advice = "lower adapt.learning_rate (and backbone_rate), or ask for fewer clusters"
            raise NumericsError(
                f"adapt: clusters of the head's features: {error}; the head has collapsed: {advice}"
            ) from error
        self.means = book.centroids.astype(np.float64)
        self.counts = np.bincount(self._nearest(x), minlength=len(self.means)) * (self.seen / len(x))
        self.kept = []

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


def nearest(x: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """The Euclidean nearest centroid of each point [m] int64."""
    c = centroids.astype(np.float32)
    return np.asarray((x @ c.T - 0.5 * np.einsum("kc,kc->k", c, c)).argmax(1))

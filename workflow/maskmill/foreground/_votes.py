"""How far fine clusters agree with foreground masks, counted exactly, and where the line is drawn."""

from __future__ import annotations

import numpy as np

from maskmill.images.interpolate import overlap

UNIT = 1 << 40  # precisions are summed in units of 1 / UNIT: 2^23 images fit 64 bits, and no order of images matters


class Votes:
    """Counts of k clusters over images.

    Attributes:
        precision: int64 [k], sum over images of the share of the cluster that is foreground, in 1 / UNIT.
        images: int64 [k], images that contain the cluster. tokens: int64 [k], its tokens in them.
    """

    def __init__(self, k: int) -> None:
        self.precision, self.images, self.tokens = (np.zeros(k, np.int64) for _ in range(3))

    def add(self, labels: np.ndarray, foreground: np.ndarray) -> None:
        """Count one image: clusters of its tokens, and how much of each is foreground, 0..1, of one shape."""
        k = len(self.tokens)
        tokens = np.bincount(labels.ravel(), minlength=k)
        inside = np.bincount(labels.ravel(), weights=foreground.ravel().astype(np.float64), minlength=k)
        here = tokens > 0
        self.precision[here] += np.round(inside[here] / tokens[here] * UNIT).astype(np.int64)
        self.images += here
        self.tokens += tokens

    def means(self) -> np.ndarray:
        """Mean precision over the images that contain a cluster, float64 [k]; NaN for a cluster that is nowhere."""
        with np.errstate(invalid="ignore"):
            return self.precision / UNIT / self.images


def otsu(values: np.ndarray) -> float | None:
    """The threshold of values [n] with the largest variance between both sides; None where all are equal.

    Otsu, A threshold selection method from gray-level histograms (1979), on the values themselves: every gap between
    two neighbours is tried, and the threshold lies in the middle of the best one (of equals the lowest).
    """
    x = np.sort(values.astype(np.float64))
    if not len(x) or x[0] == x[-1]:
        return None
    below = np.arange(1, len(x))
    sums = np.cumsum(x)
    apart = sums[:-1] / below - (sums[-1] - sums[:-1]) / (len(x) - below)
    between = np.where(np.diff(x) > 0, below * (len(x) - below) * apart**2, -1)
    best = int(np.argmax(between >= between.max() * (1 - 1e-12)))
    return float((x[best] + x[best + 1]) / 2)


def lay(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """How much of each cell of a grid [H, W] a mask [h, w] over the same image covers, float64 0..1."""
    if mask.shape == size:
        return mask.astype(np.float64)
    shares = [overlap(mask.shape[axis], size[axis]) * (size[axis] / mask.shape[axis]) for axis in (0, 1)]
    return np.asarray(shares[0].T @ mask.astype(np.float64) @ shares[1])

"""Foreground against background: IoU, accuracy, maxF and MAE of soft or binary maps, image by image.

Every number is a mean over images, not over pixels: a small image counts as much as a large one. Sums are exact or in
fixed point, so no result depends on the order of images.
"""

from __future__ import annotations

import math

import numpy as np

BETA_2 = 0.3
THRESHOLDS = 255  # value > k / 255, k = 0..254
FIXED = 1 << 40  # F is summed in units of 1 / FIXED: 2^23 images fit 64 bits

RULES = {
    "iou": "value > 0.5; both empty: 1; mean over images",
    "accuracy": "share of right pixels at value > 0.5; mean over images",
    "maxf": (
        "F = (1 + 0.3) P R / (0.3 P + R) at value > k/255, k = 0..254; mean over images at each k, then the largest;"
        " P = 1 where nothing is predicted, R = 1 where there is no foreground, F = 0 where P = R = 0"
    ),
    "mae": "mean |value - foreground| over pixels, then over images",
}


class Saliency:
    """Accumulates maps against foreground; images without a pixel that counts are left out."""

    def __init__(self) -> None:
        self._iou: list[float] = []
        self._accuracy: list[float] = []
        self._mae: list[float] = []
        self._f = np.zeros(THRESHOLDS, np.int64)

    @property
    def images(self) -> int:
        """How many images counted."""
        return len(self._iou)

    def add(self, prediction: np.ndarray, foreground: np.ndarray, void: np.ndarray | None = None) -> None:
        """Count one image.

        Args:
            prediction: [H, W] bool, or float in 0..1. foreground: bool [H, W]. void: bool [H, W], pixels left out.

        Raises:
            ValueError: different shapes, or a value outside 0..1.
        """
        if prediction.shape != foreground.shape:
            raise ValueError(f"prediction of shape {prediction.shape}, foreground of shape {foreground.shape}")
        p, g = (prediction.ravel(), foreground.ravel()) if void is None else (prediction[~void], foreground[~void])
        if not len(g):
            return
        if p.dtype != bool and not (p.min() >= 0 and p.max() <= 1):
            raise ValueError(f"values {p.min()}..{p.max()}; a map is in 0..1")
        sure = p if p.dtype == bool else p > 0.5
        both, either = np.count_nonzero(sure & g), np.count_nonzero(sure | g)
        self._iou.append(both / either if either else 1.0)
        self._accuracy.append(np.count_nonzero(sure == g) / len(g))
        self._mae.append(float(np.abs(p.astype(np.float64) - g).mean()))
        self._f += np.round(f_curve(p, g) * FIXED).astype(np.int64)

    def result(self) -> dict[str, float | None]:
        """{"iou", "accuracy", "maxf", "mae"}: means over images, None without any."""
        n = self.images
        if not n:
            return {"iou": None, "accuracy": None, "maxf": None, "mae": None}
        means = [math.fsum(values) / n for values in (self._iou, self._accuracy, self._mae)]
        return {"iou": means[0], "accuracy": means[1], "maxf": float(self._f.max() / FIXED / n), "mae": means[2]}


def f_curve(p: np.ndarray, g: np.ndarray) -> np.ndarray:
    """F of p > k / 255 for k = 0..254, float64 [255]; p [m] in 0..1 or bool, g bool [m]."""
    passed = levels(p)  # how many thresholds a value exceeds
    predicted = _at_least(np.bincount(passed, minlength=THRESHOLDS + 1))
    right = _at_least(np.bincount(passed[g], minlength=THRESHOLDS + 1))
    total = int(g.sum())
    precision = np.where(predicted > 0, right / np.maximum(predicted, 1), 1.0)
    recall = right / total if total else np.ones(THRESHOLDS)
    below = BETA_2 * precision + recall
    return np.where(below > 0, (1 + BETA_2) * precision * recall / np.where(below > 0, below, 1), 0.0)


def levels(p: np.ndarray) -> np.ndarray:
    """Number of k in 0..254 with p > k / 255, int64; a value within 1e-4 / 255 of a threshold lies on it."""
    if p.dtype == bool:
        return p * THRESHOLDS
    scaled = p.astype(np.float64) * THRESHOLDS
    whole = np.round(scaled)
    return np.where(np.abs(scaled - whole) < 1e-4, whole, np.ceil(scaled)).astype(np.int64)


def _at_least(histogram: np.ndarray) -> np.ndarray:
    """Counts [255] of values above threshold k: levels k + 1 and more of a histogram [256]."""
    return histogram[::-1].cumsum()[::-1][1:]

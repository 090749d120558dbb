"""k-means on the tokens of each image: every token gets a segment. The plain way to over-segment."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from maskmill.config import Model
from maskmill.errors import NumericsError
from maskmill.sampling import rng

ITERATIONS = 50


class Params(Model):
    """k-means an image."""

    segments: int = Field(8, ge=2, le=254, description="k-means groups an image (fewer where tokens are alike)")
    position: float = Field(0.0, ge=0, description="weight of the token's place (0..1 each way) beside its unit vector")


def cut(tokens: np.ndarray, params: Params, seed: int, image_id: str) -> tuple[np.ndarray, dict[str, float]]:
    """Groups 1..k (uint8 [h, w]) of tokens [h, w, d]; groups need not be connected.

    Diagnostics: confidence = explained share of the variance of the unit tokens, groups.

    Raises:
        NumericsError: a token is NaN or infinite.
    """
    h, w, d = tokens.shape
    x = tokens.reshape(h * w, d).astype(np.float32)
    if not np.isfinite(x).all():
        raise NumericsError(f"{image_id}: NaN or infinite tokens; delete its feature store and run snakemake again")
    x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    if params.position:
        rows, columns = np.mgrid[:h, :w].reshape(2, -1) / max(h, w)
        x = np.column_stack([x, params.position * rows, params.position * columns]).astype(np.float32)
    total = float(np.square(x - x.mean(0)).sum())
    if total < 1e-9 * len(x):  # identical tokens
        return np.zeros((h, w), np.uint8), {"confidence": 0.0, "groups": 0.0}
    labels, inertia = _lloyd(x, params.segments, rng(seed, image_id, "kmeans"))
    used, labels = np.unique(labels, return_inverse=True)
    segments = (labels.reshape(h, w) + 1).astype(np.uint8)
    return segments, {"confidence": float(np.clip(1 - inertia / total, 0, 1)), "groups": float(len(used))}


def _lloyd(x: np.ndarray, k: int, generator: np.random.Generator) -> tuple[np.ndarray, float]:
    """k-means++ start, then Lloyd until nothing moves: labels [n], inertia."""
    norms = np.square(x).sum(1)
    centres = x[[generator.integers(len(x))]]
    nearest = _distances(x, norms, centres)[:, 0]
    while len(centres) < k and nearest.sum() > 1e-6 * len(x):
        pick = int(
            np.searchsorted(np.cumsum(nearest, dtype=np.float64), generator.random() * nearest.sum(dtype=np.float64))
        )
        centres = np.concatenate([centres, x[[min(pick, len(x) - 1)]]])
        nearest = np.minimum(nearest, _distances(x, norms, centres[-1:])[:, 0])
    labels = np.full(len(x), -1)
    for _ in range(ITERATIONS):
        distances = _distances(x, norms, centres)
        new = distances.argmin(1)
        if (new == labels).all():
            break
        labels = new
        member = np.eye(len(centres), dtype=np.float32)[labels]  # [n, k]
        counts = member.sum(0)
        centres = np.where(counts[:, None] > 0, member.T @ x / np.maximum(counts, 1)[:, None], centres)
    return labels, float(np.take_along_axis(distances, labels[:, None], 1).sum(dtype=np.float64))


def _distances(x: np.ndarray, norms: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Squared distances [n, k]."""
    return np.maximum(norms[:, None] - 2 * x @ centres.T + np.square(centres).sum(1), 0)

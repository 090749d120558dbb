"""Scores of a clustering that need no labels, measured on a sample of vectors that is the same for every seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from maskmill.store.codebook import Codebook, assign
from maskmill.store.ragged import Ragged

SAMPLE = 2000  # vectors measured: the silhouette needs all distances between them


def measure(stores: Sequence[Ragged], book: Codebook) -> dict[str, Any]:
    """Scores of a codebook, ready for JSON.

    Returns:
        clusters; points and inertia of the fit; and of the sample: sample (its size), mean_distance to the nearest
        centroid, noise (share), silhouette (Rousseeuw, 1987; by cosine or Euclidean distance, noise left out; None
        where fewer than two clusters occur), labels (of each vector, -1 is noise; two seeds are compared by them).
    """
    from maskmill.numerics.sampling import sample_rows

    x = sample_rows(stores, SAMPLE, 0)
    labels, distances = assign(x, book)
    return {
        "clusters": len(book),
        "points": int(book.counts.sum()),
        "inertia": book.inertia,
        "sample": len(x),
        "mean_distance": float(distances.mean(dtype=np.float64)),
        "noise": float((labels < 0).mean()),
        "silhouette": silhouette(x[labels >= 0], labels[labels >= 0], book.spherical),
        "labels": labels.tolist(),
    }


def silhouette(x: np.ndarray, labels: np.ndarray, spherical: bool) -> float | None:
    """Mean silhouette of x [n, d] in -1..1; None where there is nothing to compare."""
    from sklearn.metrics import silhouette_score

    if not 2 <= len(np.unique(labels)) < len(labels):
        return None
    return float(silhouette_score(x, labels, metric="cosine" if spherical else "euclidean"))

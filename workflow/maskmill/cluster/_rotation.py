"""From eigenvectors to clusters by the rotation that brings them closest to indicator vectors.

Yu and Shi, Multiclass spectral clustering (ICCV 2003). For rows x [n, k] of unit length an orthogonal R is sought such
that x R differs least from the one-hot rows of its largest entries: in turn the best one-hot rows for R, and the best R
for them, which is a product of singular vectors.
"""

from __future__ import annotations

import numpy as np

from maskmill.numerics.sampling import rng

ITERATIONS = 300
CLOSE = 1e-9  # the sum of singular values of a whole that counts as no change


def rotate(rows: np.ndarray, restarts: int, seed: int) -> np.ndarray:
    """The rotation [k, k] float64 of rows [n, k] of unit length whose one-hot rows are closest, of several starts."""
    best, found = -np.inf, np.eye(rows.shape[1])
    for restart in range(restarts):
        value, turned = _from(rows, _start(rows, rng(seed, "cluster", "ncut", "rotation", str(restart))))
        if value > best * (1 + CLOSE) or not np.isfinite(best):
            best, found = value, turned
    return found


def _start(rows: np.ndarray, draws: np.random.Generator) -> np.ndarray:
    """Columns are rows: one drawn, then each time the one that is most orthogonal to those before."""
    k = rows.shape[1]
    start = np.empty((k, k))
    start[:, 0] = rows[draws.integers(len(rows))]
    along = np.zeros(len(rows))
    for place in range(1, k):
        along += np.abs(rows @ start[:, place - 1])
        start[:, place] = rows[int(along.argmin())]
    return start


def _from(rows: np.ndarray, rotation: np.ndarray) -> tuple[float, np.ndarray]:
    """The sum of singular values at the end (larger is closer), and the rotation."""
    k, before = rows.shape[1], -np.inf
    for _ in range(ITERATIONS):
        label = (rows @ rotation).argmax(axis=1)
        near = np.stack([np.bincount(label, column, k) for column in rows.T.astype(np.float64)], axis=1)  # [k, k]
        left, value, right = np.linalg.svd(near)
        rotation = right.T @ left.T
        if value.sum() <= before * (1 + CLOSE):
            break
        before = float(value.sum())
    return float(value.sum()), rotation

"""A plain Deep Spectral Methods graph and solve, written from their description (float64 dense, and as published).

`eigenpairs` is the yardstick of the tests: every matrix formed, float64, dense generalised solver. `published` is that
of `bench/dsm.py`: the way of the published code, float32 shift-invert ARPACK about zero on dense matrices.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import eigh
from scipy.sparse.linalg import eigsh


def graph(tokens: np.ndarray, colour: np.ndarray | None = None, weight: float = 0.0) -> np.ndarray:
    """W [n, n] of tokens [n, d], in their dtype; colour [h, w, 3] in 0..1 adds `weight` times its neighbours."""
    unit = tokens / np.linalg.norm(tokens, axis=1, keepdims=True)
    cosine = unit @ unit.T
    matrix = cosine * (cosine > 0)
    matrix /= matrix.max()
    return matrix if colour is None else matrix + weight * colour_graph(colour).astype(matrix.dtype)


def colour_graph(colour: np.ndarray) -> np.ndarray:
    """Counts [n, n] of who is among whose nearest in colour and place, both ways, by looking at every distance."""
    h, w = colour.shape[:2]
    counts = np.zeros((h * w, h * w))
    rows, columns = np.divmod(np.arange(h * w), w)
    place = np.stack([columns / max(1, w - 1), rows / max(1, h - 1)], 1)
    for k, scale in ((20, 2.0), (10, 0.1)):
        points = np.concatenate([colour.reshape(h * w, 3), scale * place], 1)
        apart = np.square(points[:, None] - points[None]).sum(2)
        for i in range(h * w):
            for j in np.argsort(apart[i], kind="stable")[: min(k, h * w)]:
                counts[i, j] += 1
                counts[j, i] += 1
    return counts


def eigenpairs(matrix: np.ndarray, vectors: int) -> tuple[np.ndarray, np.ndarray]:
    """lambda_1 ... lambda_{K+1} and y of the first K (rows, y D y = 1), dense in float64."""
    matrix = matrix.astype(np.float64)
    degree = np.diag(matrix.sum(1))
    last = min(vectors, len(matrix) - 1)
    values, y = eigh(degree - matrix, degree, subset_by_index=[0, last])
    return values, y.T[:vectors]


def published(tokens: np.ndarray, vectors: int) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues and y (rows) of the first K of tokens [n, d] float32, as the published code computes them."""
    matrix = graph(tokens.astype(np.float32))
    degree = matrix.sum(1)
    degree[degree < 1e-12] = 1
    laplacian, mass = np.diag(degree) - matrix, np.diag(degree)
    start = np.random.default_rng(0).standard_normal(len(matrix)).astype(np.float32)
    try:
        values, y = eigsh(laplacian, k=vectors, sigma=0, which="LM", M=mass, v0=start)
    except Exception:  # the published code, too, goes on without shift-invert where the factorisation fails
        values, y = eigsh(laplacian, k=vectors, which="SM", M=mass, v0=start)
    order = np.argsort(values)
    return values[order], y.T[order]

"""A plain TokenCut, written from its description: dense, float64, generalised symmetric eigenproblem.

This is the yardstick of `bench/cut.py` and of the tests. It forms every matrix and takes every shortcut that the
method's description takes, none that it does not, so it is slow.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from scipy.linalg import eigh


def graph(tokens: np.ndarray, tau: float = 0.2, eps: float = 1e-5) -> np.ndarray:
    """A in float64 [n, n] of tokens [n, d]: 1 where the cosine exceeds tau, else eps."""
    unit = tokens / np.linalg.norm(tokens, axis=1, keepdims=True)
    return np.where(unit @ unit.T > tau, 1.0, eps).astype(np.float64)


def second_vector(affinity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The vector y of lambda_2 [n], and (lambda_2, lambda_3)."""
    degree = np.diag(affinity.sum(1))
    values, vectors = eigh(degree - affinity, degree, subset_by_index=[1, 2])
    return vectors[:, 0], values


def split(y: np.ndarray) -> np.ndarray:
    """The object's mask, bool [h, w], of y [h, w]: mean split, seed = argmax |y|, its 4-connected component."""
    foreground = y > y.mean()
    seed = np.unravel_index(np.abs(y).argmax(), y.shape)
    if not foreground[seed]:
        foreground = ~foreground
    labels, _ = ndimage.label(foreground)
    return labels == labels[seed]


def tokencut(tokens: np.ndarray, tau: float = 0.2, eps: float = 1e-5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mask [h, w], y [h, w] and (lambda_2, lambda_3) of tokens [h, w, d]."""
    h, w, d = tokens.shape
    y, values = second_vector(graph(tokens.reshape(h * w, d), tau, eps))
    return split(y.reshape(h, w)), y.reshape(h, w), values


def scene(h: int, w: int, seed: int, depth: int = 64) -> np.ndarray:
    """Structured tokens [h, w, depth] float32: ellipses on a background of smooth textures, with noise.

    Parts share some of their direction, so that the graph is connected and the first eigenvalues are close.
    """
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:h, :w] / max(h, w)
    parts = rng.standard_normal((6, depth)) + 0.5 * rng.standard_normal(depth)
    weight = np.zeros((h, w, 6))
    for texture in range(3):  # smooth mixture of three background textures
        weight[..., texture] = np.exp(2 * np.sin(rng.uniform(2, 7, 2) @ np.stack([y, x]).reshape(2, -1)).reshape(h, w))
    weight /= weight.sum(2, keepdims=True)
    for thing in range(3, rng.integers(4, 7)):
        cy, cx, ry, rx = rng.uniform([0.2, 0.2, 0.08, 0.08], [0.8, 0.8, 0.3, 0.3])
        inside = ((y * max(h, w) / h - cy) / ry) ** 2 + ((x * max(h, w) / w - cx) / rx) ** 2 < 1
        weight[inside] = np.eye(6)[thing]
    return (weight @ parts + rng.uniform(0.5, 1.1) * rng.standard_normal((h, w, depth))).astype(np.float32)

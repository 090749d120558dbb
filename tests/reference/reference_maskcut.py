"""A plain MaskCut, written from the description of its published rules: dense, float64, every graph built anew.

The yardstick of `bench/cut.py` and of the tests, like `reference_ncut.py`. Square grids only.
"""

from __future__ import annotations

import numpy as np
from reference_ncut import second_vector
from scipy import ndimage


def maskcut(tokens: np.ndarray, tau: float = 0.15, eps: float = 1e-5, masks: int = 3) -> tuple[list, list]:
    """The disjoint masks, bool [h, h] and possibly empty, of tokens [h, h, d]; (y [h, h], values) of each iteration."""
    h, w, d = tokens.shape
    if h != w:
        raise ValueError("square grids only")
    features = tokens.reshape(h * w, d).astype(np.float64)
    painting, previous = np.zeros(h * w), np.zeros((h, w), bool)
    outputs, spectra = [], []
    for iteration in range(masks):
        if iteration:
            painting = np.minimum(1, painting + previous.ravel())
            features = features * (1 - painting)[:, None]
        y, values = second_vector(affinity(features, tau, eps))
        mask = foreground(y.reshape(h, w))
        if iteration:
            union = (mask | previous).sum()
            if (mask & previous).sum() / union > 0.5 or mask.mean() <= 0.01:
                mask = np.zeros((h, w), bool)
        previous = mask
        before = np.sum(outputs, axis=0) if outputs else np.zeros((h, w))
        outputs.append(mask & (mask - before > 0))
        spectra.append((y.reshape(h, w), values))
    return outputs, spectra


def affinity(features: np.ndarray, tau: float, eps: float) -> np.ndarray:
    """1 where the cosine exceeds tau, else eps; a zero vector has cosine 0 with every vector, itself included."""
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    unit = features / np.where(norms > 0, norms, 1)
    return np.where(unit @ unit.T > tau, 1.0, eps)


def foreground(y: np.ndarray) -> np.ndarray:
    """The object's mask of y: mean split, corner rule, component of the seed."""
    above = y > y.mean()
    corners = int(above[0, 0]) + int(above[0, -1]) + int(above[-1, 0]) + int(above[-1, -1])
    if corners >= 3 or not above.flat[np.abs(y).argmax()]:
        y, above = -y, ~above
    labels, _ = ndimage.label(above)
    return labels == labels.flat[y.argmax()]

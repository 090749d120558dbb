"""A plain LOST, written from its description: dense, float64. A yardstick like `reference_ncut.py`."""

from __future__ import annotations

import numpy as np
from scipy import ndimage


def lost(tokens: np.ndarray, k: int = 100) -> tuple[np.ndarray, int, bool]:
    """Mask, bool [h, w], of tokens [h, w, d]; the seed; and whether its degree, or the k-th one, is tied."""
    h, w, d = tokens.shape
    features = tokens.reshape(h * w, d).astype(np.float64)
    gram = features @ features.T
    others = gram.copy()
    np.fill_diagonal(others, 0)
    degree = (others > 0).sum(1)
    order = np.argsort(degree, kind="stable")
    seed, candidates = order[0], order[:k]
    friends = [q for q in candidates if gram[seed, q] > 0]
    correlation = np.zeros(h * w)
    for q in friends:
        correlation += gram[q]
    labels, _ = ndimage.label((correlation > 0).reshape(h, w))
    if labels.flat[seed] == 0:
        raise ValueError("the seed is not in its own mask")
    ranked = degree[order]
    tied = bool(ranked[1] == ranked[0] or (k < len(ranked) and ranked[k] == ranked[k - 1]))
    return labels == labels.flat[seed], int(seed), tied

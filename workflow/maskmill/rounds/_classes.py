"""Classes by their frequency in the masks: their weights in a loss, and those without an example."""

from __future__ import annotations

import numpy as np

ABSENT_BIAS = -1e4  # bias of a class without a single cell in the masks: it is never predicted


def class_weights(counts: np.ndarray, balance: float) -> np.ndarray:
    """Frequency ** -balance [classes] float32, scaled so that the mean over all known cells is 1; absent classes 0."""
    share = counts / counts.sum()
    weights = np.where(counts > 0, np.maximum(share, 1e-12) ** -balance, 0)
    return (weights / (weights * share).sum()).astype(np.float32)

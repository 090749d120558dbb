"""The distance of two vectors, for compiled loops."""

from __future__ import annotations

import numpy as np

from maskmill.jit import compiler

FAST = {"reassoc", "contract", "arcp", "nsz"}


@compiler(fastmath=FAST)
def chord(x: np.ndarray, c: np.ndarray) -> float:
    """Euclidean distance of x [d] and c [d] float32."""
    total = np.float32(0)
    for t in range(x.shape[0]):
        step = x[t] - c[t]
        total += step * step
    return np.sqrt(total)

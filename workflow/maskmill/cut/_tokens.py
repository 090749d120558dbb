"""What every cut checks of its tokens."""

from __future__ import annotations

import numpy as np

from maskmill.errors import NumericsError


def flat_tokens(tokens: np.ndarray, image_id: str) -> np.ndarray:
    """Tokens [h, w, d] as float32 [h*w, d], contiguous.

    Raises:
        NumericsError: a token is NaN or infinite, or there is none; names the image.
    """
    h, w, d = tokens.shape
    if h * w == 0 or d == 0:
        raise NumericsError(f"{image_id}: no tokens (grid {h}x{w}, depth {d}); delete its feature store and run again")
    flat = np.ascontiguousarray(tokens.reshape(h * w, d), dtype=np.float32)
    if not np.isfinite(flat).all():
        bad = int((~np.isfinite(flat)).any(1).sum())
        raise NumericsError(
            f"{image_id}: {bad} of {h * w} tokens are NaN or infinite; delete its feature store and run snakemake again"
        )
    return flat

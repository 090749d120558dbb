"""Rows of floats in the type that a store holds them in, and back."""

from __future__ import annotations

import numpy as np

from maskmill.errors import NumericsError


def encoded_rows(
    rows: np.ndarray, dtype: np.dtype, quantised: bool, who: str = "", where: str = ""
) -> tuple[np.ndarray, np.ndarray | None]:
    """Float rows in a stored type, and with int8 the scale of each row; `who` and `where` are for the message.

    Raises:
        NumericsError: a value is NaN or infinite, or overflows float16.
    """
    scale = None
    if quantised:
        scale = np.abs(rows).max(axis=1).astype(np.float32) / 127  # [rows]
        encoded = np.round(rows / np.maximum(scale, np.finfo(np.float32).tiny)[:, None])
        finite = np.isfinite(scale).all()
    else:
        with np.errstate(over="ignore"):
            encoded = rows.astype(dtype)
        finite = np.isfinite(encoded).all()
    if not finite:
        raise NumericsError(
            f"{who}NaN or infinite values{where} (stored as {dtype}); "
            "if the values are only too large for float16, set dtype: int8 for this feature set"
        )
    return encoded.astype(dtype), scale


def decoded_rows(rows: np.ndarray, scale: np.ndarray | None) -> np.ndarray:
    """Stored rows [n, d] as floats; `scale` [n] is that of int8."""
    return rows if scale is None else rows.astype(np.float32) * scale[:, None]

"""How a store keeps vectors of floats: float16, or int8 with a scale a row."""

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
    """Rows as `encoded_rows` was given them, rounded."""
    return rows if scale is None else rows.astype(np.float32) * scale[:, None]


def as_stored(values: np.ndarray, dtype: str = "float16") -> np.ndarray:
    """Float values [h, w, d] as a store of this type gives them back: rounded; raises as `RaggedWriter.append`."""
    kind = np.dtype(dtype)
    encoded, scale = encoded_rows(values.reshape(-1, values.shape[2]), kind, kind == np.int8)
    return decoded_rows(encoded, scale).reshape(values.shape)

"""A truncated Gaussian filter over the image plane, for any number of channels at once."""

from __future__ import annotations

import numpy as np

from maskmill.refine._lattice import compiled

REACH = 3.0  # standard deviations


def taps(std: float, side: int) -> np.ndarray:
    """exp(-k^2 / 2 std^2) for k = 0 .. ceil(3 std), float32: one half of the kernel, its middle is 1.

    Never longer than the longer `side` of the image needs.
    """
    k = np.arange(min(int(np.ceil(REACH * std)), side - 1) + 1)
    return np.exp(-0.5 * (k / std) ** 2).astype(np.float32)


@compiled
def smooth(values: np.ndarray, taps: np.ndarray, out: np.ndarray) -> None:
    """Sum over neighbours j of taps[|dy|] taps[|dx|] values[j]; nothing lies outside the image.

    Args:
        values: float32 [H + 2 r, c, W] with r = len(taps) - 1 rows of zeros above and below.
        out: float32 [H, c, W].
    """
    reach = len(taps) - 1
    height, channels, width = out.shape
    flat = values.reshape(values.shape[0], channels * width)
    down = np.empty((channels, width), np.float32)
    row = np.zeros(width + 2 * reach, np.float32)
    for y in range(height):
        _down(flat, taps, y, down.reshape(channels * width))
        for c in range(channels):
            row[reach : reach + width] = down[c]
            _along(row, taps, out[y, c])


@compiled
def _down(rows: np.ndarray, taps: np.ndarray, y: int, out: np.ndarray) -> None:
    """Write the weighted sum of the rows y .. y + 2 r to out [size]."""
    middle, reach = y + len(taps) - 1, len(taps) - 1
    _start(rows[middle], taps[0], out)
    for k in range(1, reach, 2):
        _add_two(rows[middle - k], rows[middle + k], rows[middle - k - 1], rows[middle + k + 1], taps, k, out)
    if reach % 2:
        _add_one(rows[middle - reach], rows[middle + reach], taps[reach], out)


@compiled
def _along(row: np.ndarray, taps: np.ndarray, out: np.ndarray) -> None:
    """Write the weighted sum of the neighbours in row [w + 2 r] to out [w]."""
    n, reach = len(out), len(taps) - 1
    _start(row[reach : reach + n], taps[0], out)
    for k in range(1, reach, 2):
        near, far = row[reach - k : reach - k + n], row[reach + k : reach + k + n]
        _add_two(
            near, far, row[reach - k - 1 : reach - k - 1 + n], row[reach + k + 1 : reach + k + 1 + n], taps, k, out
        )
    if reach % 2:
        _add_one(row[:n], row[2 * reach : 2 * reach + n], taps[reach], out)


@compiled
def _start(x: np.ndarray, tap: float, out: np.ndarray) -> None:
    for i in range(len(out)):
        out[i] = tap * x[i]


@compiled
def _add_one(a: np.ndarray, b: np.ndarray, tap: float, out: np.ndarray) -> None:
    for i in range(len(out)):
        out[i] += tap * (a[i] + b[i])


@compiled
def _add_two(
    a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray, taps: np.ndarray, k: int, out: np.ndarray
) -> None:
    near, far = taps[k], taps[k + 1]
    for i in range(len(out)):
        out[i] += near * (a[i] + b[i]) + far * (c[i] + d[i])

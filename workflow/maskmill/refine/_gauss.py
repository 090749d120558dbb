"""A truncated Gaussian filter over the image plane, for any number of channels at once."""

from __future__ import annotations

import numpy as np

from maskmill.refine._lattice import compiled

REACH = 3.0  # standard deviations


def taps(std: float) -> np.ndarray:
    """exp(-k^2 / 2 std^2) for k = 0 .. ceil(3 std), float32: one half of the kernel, its middle is 1."""
    k = np.arange(int(np.ceil(REACH * std)) + 1)
    return np.exp(-0.5 * (k / std) ** 2).astype(np.float32)


@compiled
def smooth(values: np.ndarray, taps: np.ndarray, columns: np.ndarray, out: np.ndarray) -> None:
    """Sum over neighbours j of taps[|dy|] taps[|dx|] values[j]; nothing lies outside the image.

    Args:
        values: float32 [H + 2 r, W, c] with r = len(taps) - 1 rows of zeros above and below.
        columns: scratch float32 [W + 2 r, c]; its first and last r rows stay zero.
        out: float32 [H, W, c].
    """
    reach = len(taps) - 1
    height, width, channels = out.shape
    for y in range(height):
        # down the columns, then along the row; arrays are flattened so that the inner loop is long
        middle = columns[reach : reach + width].reshape(width * channels)
        _sum_taps(values.reshape(values.shape[0], width * channels), taps, y, middle)
        row = out[y].reshape(width * channels)
        flat = columns.reshape(columns.shape[0] * channels)
        size = width * channels
        for x in range(size):
            row[x] = taps[0] * middle[x]
        k = 1
        while k + 1 <= reach:
            a, b = flat[(reach - k) * channels :][:size], flat[(reach + k) * channels :][:size]
            c, d = flat[(reach - k - 1) * channels :][:size], flat[(reach + k + 1) * channels :][:size]
            near, far = taps[k], taps[k + 1]
            for x in range(size):
                row[x] += near * (a[x] + b[x]) + far * (c[x] + d[x])
            k += 2
        if k <= reach:
            a, b, near = flat[(reach - k) * channels :][:size], flat[(reach + k) * channels :][:size], taps[k]
            for x in range(size):
                row[x] += near * (a[x] + b[x])


@compiled
def _sum_taps(values: np.ndarray, taps: np.ndarray, y: int, out: np.ndarray) -> None:
    """out = weighted sum of the rows around row y + r of the padded values [H + 2 r, size]."""
    reach, size = len(taps) - 1, len(out)
    row = values[y + reach]
    for x in range(size):
        out[x] = taps[0] * row[x]
    k = 1
    while k + 1 <= reach:
        a, b = values[y + reach - k], values[y + reach + k]
        c, d = values[y + reach - k - 1], values[y + reach + k + 1]
        near, far = taps[k], taps[k + 1]
        for x in range(size):
            out[x] += near * (a[x] + b[x]) + far * (c[x] + d[x])
        k += 2
    if k <= reach:
        a, b, near = values[y + reach - k], values[y + reach + k], taps[k]
        for x in range(size):
            out[x] += near * (a[x] + b[x])

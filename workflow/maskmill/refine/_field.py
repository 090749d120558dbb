"""The mean-field update, fused: read the messages at a pixel, normalise, send the new belief. One pass an iteration.

Symbols: a pixel's belief is q = 2 Q(1) - 1 with two classes and Q [c] with more. The plane is the spatial Gaussian,
the grid is the lattice of position and colour; both kernels K are normalised symmetrically, N K N with N = (K 1)^-1/2.
Pixels whose N is zero neither send messages nor receive any.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from maskmill.refine._lattice import compiled, splat

FLOOR = 16.0  # log-probabilities this far below the best count as this
RUN = 32  # pixels that settle together
SURE = 8.0  # log-odds: a belief within a thousandth of +-1
_F = np.float32


@compiled
def _exp(x: Any) -> Any:
    """exp(x) for x in -16..0, relative error below 1e-4; without branches, so that loops over it are vectorised."""
    y = max(x, _F(-FLOOR)) * _F(1 / 64)
    e = _F(1) + y * (_F(1) + y * (_F(1 / 2) + y * (_F(1 / 6) + y * (_F(1 / 24) + y * _F(1 / 120)))))
    for _ in range(6):
        e *= e
    return e


@compiled
def update_two(
    vertices: np.ndarray,
    weights: np.ndarray,
    unary: np.ndarray,
    plane: np.ndarray,
    grid: np.ndarray,
    plane_norm: np.ndarray,
    grid_norm: np.ndarray,
    compat: tuple[float, float],
    next_plane: np.ndarray,
    next_grid: np.ndarray,
    out: np.ndarray,
    settled: np.ndarray,
    base: np.ndarray,
    first: bool,
    last: bool,
) -> None:
    """Two classes: out [H, W] = log-odds from the messages; the new beliefs go to next_plane and next_grid.

    A run of RUN neighbouring pixels is settled once all its log-odds exceed SURE in magnitude and kept their sign in
    this iteration. Settled runs are not computed again; the messages that they send are kept in `base`.

    Args:
        vertices, weights: of the lattice [H * W, 6]. unary: log-odds [H, W]. plane: the smoothed beliefs [H, W].
        grid: the blurred beliefs [m + 1]. plane_norm, grid_norm: N of the two kernels [H, W].
        compat: weight of the plane and of the grid. next_plane: a view [H, W] of the padded plane.
        settled: bool [H, ceil(W / RUN)]. base: what settled runs send [m + 1].
        first: no messages yet. last: send none.
    """
    height, width = unary.shape
    belief = np.empty(RUN, np.float32)
    if not last:
        next_grid[:] = base
    for y in range(height):
        for run in range(settled.shape[1]):
            if settled[y, run]:
                continue
            here = slice(run * RUN, min(width, (run + 1) * RUN))
            v, w = vertices[y * width : (y + 1) * width][here], weights[y * width : (y + 1) * width][here]
            near, far, row, fixed, flat = (
                plane_norm[y][here], grid_norm[y][here], out[y][here], unary[y][here], plane[y][here],
            )  # fmt: skip
            n = len(row)
            doubtful = 0
            if first:
                row[:] = fixed
                doubtful = 1
            else:
                for x in range(n):
                    total = _F(0)
                    for k in range(6):
                        total += w[x, k] * grid[v[x, k]]
                    belief[x] = total
                for x in range(n):
                    odds = fixed[x] + compat[0] * near[x] * flat[x] + compat[1] * far[x] * belief[x]
                    doubtful += (min(abs(odds), abs(row[x])) < SURE or odds * row[x] < 0) and far[x] > 0
                    row[x] = odds
            if last:
                continue
            target = next_plane[y][here]
            for x in range(n):
                e = _exp(-abs(row[x]))
                belief[x] = np.copysign((_F(1) - e) / (_F(1) + e), row[x])
            for x in range(n):
                target[x] = belief[x] * near[x]
                belief[x] *= far[x]
            for x in range(n):
                for k in range(6):
                    next_grid[v[x, k]] += w[x, k] * belief[x]
            if doubtful == 0:
                settled[y, run] = True
                for x in range(n):
                    for k in range(6):
                        base[v[x, k]] += w[x, k] * belief[x]


@compiled
def update_many(
    vertices: np.ndarray,
    weights: np.ndarray,
    unary: np.ndarray,
    plane: np.ndarray,
    grid: np.ndarray,
    plane_norm: np.ndarray,
    grid_norm: np.ndarray,
    compat: tuple[float, float],
    next_plane: np.ndarray,
    next_grid: np.ndarray,
    out: np.ndarray,
    peak: np.ndarray,
    first: bool,
    last: bool,
) -> None:
    """As `update_two` for c classes, c a multiple of 8: unary, plane, out [H, c, W], grid [m + 1, c].

    out = probabilities. peak [c]: the largest probability of each class anywhere. A row of the image is worked on class
    by class, so that every loop is over neighbours in memory.
    """
    height, classes, width = unary.shape
    message, belief = np.empty((classes, width), np.float32), np.empty((width, classes), np.float32)
    best, total = np.empty(width, np.float32), np.empty(width, np.float32)
    next_grid[:] = 0
    peak[:] = 0
    for y in range(height):
        v, w = vertices[y * width : (y + 1) * width], weights[y * width : (y + 1) * width]
        near, far = plane_norm[y], grid_norm[y]
        if first:
            out[y] = unary[y]
        else:
            _read_messages(v, w, grid, message)
            for c in range(classes):
                row, fixed, flat, received = out[y, c], unary[y, c], plane[y, c], message[c]
                for x in range(width):
                    row[x] = fixed[x] + compat[0] * near[x] * flat[x] + compat[1] * far[x] * received[x]
        best[:] = out[y, 0]
        for c in range(1, classes):
            row = out[y, c]
            for x in range(width):
                best[x] = max(best[x], row[x])
        total[:] = 0
        for c in range(classes):
            row = out[y, c]
            for x in range(width):
                row[x] = _exp(row[x] - best[x])
                total[x] += row[x]
        for x in range(width):
            total[x] = _F(1) / total[x]
        for c in range(classes):
            row, target, top = out[y, c], next_plane[y, c], _F(0)
            for x in range(width):
                row[x] *= total[x]
                target[x] = row[x] * near[x]
                top = max(top, row[x])
            for x in range(width):
                belief[x, c] = row[x] * far[x]
            peak[c] = max(peak[c], top)
        if not last:
            splat(v, w, belief, next_grid)


@compiled
def _read_messages(vertices: np.ndarray, weights: np.ndarray, grid: np.ndarray, message: np.ndarray) -> None:
    """The grid [m + 1, c] read at the pixels of a row: message [c, W]. Eight classes at a time make one vector."""
    for x in range(message.shape[1]):
        v, w = vertices[x], weights[x]
        rows = (grid[v[0]], grid[v[1]], grid[v[2]], grid[v[3]], grid[v[4]], grid[v[5]])
        shares = (w[0], w[1], w[2], w[3], w[4], w[5])
        for c in range(0, message.shape[0], 8):
            m0, m1 = _mix(shares, rows, c), _mix(shares, rows, c + 1)
            m2, m3 = _mix(shares, rows, c + 2), _mix(shares, rows, c + 3)
            m4, m5 = _mix(shares, rows, c + 4), _mix(shares, rows, c + 5)
            m6, m7 = _mix(shares, rows, c + 6), _mix(shares, rows, c + 7)
            message[c, x], message[c + 1, x], message[c + 2, x], message[c + 3, x] = m0, m1, m2, m3
            message[c + 4, x], message[c + 5, x], message[c + 6, x], message[c + 7, x] = m4, m5, m6, m7


@compiled
def _mix(shares: tuple[float, ...], rows: tuple[np.ndarray, ...], c: int) -> float:
    a, b = shares[0] * rows[0][c] + shares[1] * rows[1][c], shares[2] * rows[2][c] + shares[3] * rows[3][c]
    return a + b + shares[4] * rows[4][c] + shares[5] * rows[5][c]

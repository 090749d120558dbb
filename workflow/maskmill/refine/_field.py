"""The mean-field update, fused: read the messages at a pixel, normalise, send the new belief. One pass an iteration.

Symbols: a pixel's belief is q = 2 Q(1) - 1 with two classes and Q [c] with more. The plane is the spatial Gaussian,
the grid is the lattice of position and colour; both kernels K are normalised symmetrically, N K N with N = (K 1)^-1/2.
Pixels whose N is zero neither vote nor listen.
"""

from __future__ import annotations

import numpy as np

from maskmill.refine._lattice import compiled

FLOOR = 16.0  # log-probabilities this far below the best count as this
SILENT = 1e-5  # where few classes of a pixel are likelier than this, only those are sent
_F = np.float32


@compiled
def _exp(x: float) -> float:
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
    first: bool,
    last: bool,
) -> None:
    """Two classes: out [H, W] = log-odds from the messages; the new beliefs go to next_plane and next_grid.

    Args:
        vertices, weights: of the lattice [H * W, 6]. unary: log-odds [H, W]. plane: the smoothed beliefs [H, W].
        grid: the blurred beliefs [m + 1]. plane_norm, grid_norm: N of the two kernels [H, W].
        compat: weight of the plane and of the grid. next_plane: a view [H, W] of the padded plane.
        first: no messages yet. last: send none.
    """
    height, width = unary.shape
    message, belief = np.empty(width, np.float32), np.empty(width, np.float32)
    next_grid[:] = 0
    for y in range(height):
        v, w = vertices[y * width : (y + 1) * width], weights[y * width : (y + 1) * width]
        near, far, row = plane_norm[y], grid_norm[y], out[y]
        if first:
            row[:] = unary[y]
        else:
            for x in range(width):
                total = _F(0)
                for k in range(6):
                    total += w[x, k] * grid[v[x, k]]
                message[x] = total
            fixed, flat = unary[y], plane[y]
            for x in range(width):
                row[x] = fixed[x] + compat[0] * near[x] * flat[x] + compat[1] * far[x] * message[x]
        if last:
            continue
        target = next_plane[y]
        for x in range(width):
            e = _exp(-abs(row[x]))
            belief[x] = np.copysign((_F(1) - e) / (_F(1) + e), row[x])
        for x in range(width):
            target[x] = belief[x] * near[x]
            belief[x] *= far[x]
        for x in range(width):
            for k in range(6):
                next_grid[v[x, k]] += w[x, k] * belief[x]


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
    """As `update_two` for c classes: arrays have a last axis of classes, out [H, W, c] = probabilities.

    peak [c]: the largest probability of each class anywhere.
    """
    height, width, classes = unary.shape
    alive = np.empty(classes + 1, np.int64)
    next_grid[:] = 0
    peak[:] = 0
    for y in range(height):
        for x in range(width):
            v, w, row = vertices[y * width + x], weights[y * width + x], out[y, x]
            near, far = plane_norm[y, x], grid_norm[y, x]
            if first:
                row[:] = unary[y, x]
            else:
                _listen(v, w, grid, unary[y, x], plane[y, x], compat[0] * near, compat[1] * far, row)
            count = _softmax(row, peak, alive)
            if last:
                continue
            target = next_plane[y, x]
            for c in range(classes):
                target[c] = row[c] * near
            if count > classes // 4:
                for k in range(6):
                    vertex, share = next_grid[v[k]], w[k] * far
                    for c in range(classes):
                        vertex[c] += share * row[c]
            else:
                for k in range(6):
                    vertex, share = next_grid[v[k]], w[k] * far
                    for a in range(count):
                        vertex[alive[a]] += share * row[alive[a]]


@compiled
def _listen(
    v: np.ndarray,
    w: np.ndarray,
    grid: np.ndarray,
    fixed: np.ndarray,
    flat: np.ndarray,
    near: float,
    far: float,
    out: np.ndarray,
) -> None:
    """Unnormalised log-probabilities [c] of one pixel from its unary term and both messages."""
    a, b, c, d, e, f = grid[v[0]], grid[v[1]], grid[v[2]], grid[v[3]], grid[v[4]], grid[v[5]]
    wa, wb, wc, wd, we, wf = far * w[0], far * w[1], far * w[2], far * w[3], far * w[4], far * w[5]
    for i in range(len(out)):
        message = wa * a[i] + wb * b[i] + wc * c[i] + wd * d[i] + we * e[i] + wf * f[i]
        out[i] = fixed[i] + near * flat[i] + message


@compiled
def _softmax(row: np.ndarray, peak: np.ndarray, alive: np.ndarray) -> int:
    """Softmax in place; raises `peak`, lists the classes above SILENT in `alive` and returns their number."""
    best = row[0]
    for c in range(1, len(row)):
        best = max(best, row[c])
    total = _F(0)
    for c in range(len(row)):
        row[c] = _exp(row[c] - best)
        total += row[c]
    inverse = _F(1) / total
    for c in range(len(row)):
        row[c] *= inverse
        peak[c] = max(peak[c], row[c])
    count = 0
    for c in range(len(row)):
        alive[count] = c
        count += row[c] > SILENT
    return count

"""A 5-D Gaussian filter over position and colour on the permutohedral lattice.

Adams, Baek, Davis, "Fast high-dimensional filtering using the permutohedral lattice", Eurographics 2010. A pixel's
feature (x, y, r, g, b), in standard deviations, lies in a simplex of 6 lattice vertices: its value is spread over them
with barycentric weights, the vertices are blurred by [1 2 1] / 2 along the 6 lattice directions, and read back with the
same weights. The variances of the three steps add up to one.

What is our own is how the vertices are found. Rounding a feature *down* gives a simplex without case distinctions: the
fractions are sorted by a network of 12 comparisons on integers that carry their coordinate's number in the low bits;
the gaps between neighbours in that order are the weights, and the vertices follow each other by one addition a step on
a linear key. Vertices are numbered as they are first met, so that neighbours in the image are neighbours in memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import int32, int64

from maskmill.errors import NumericsError
from maskmill.jit import compiler

DEPTH = 5  # dimensions of the feature
MARGIN = 32  # lattice units around the features: room for the vertices of the outermost and for their neighbours
MAX_KEY = 2**62
GOLDEN = np.int64(-7046029254386353131)  # 2^64 / golden ratio: multiplicative hashing
LOW = np.int64(0xFFFFFFFF)
FAST = {"contract", "reassoc", "nsz", "nnan"}  # what it takes to vectorise sums and maxima
_F = np.float32


compiled = compiler(error_model="numpy", fastmath=FAST)


@dataclass(frozen=True)
class Lattice:
    """The lattice of one image of n pixels, m vertices.

    Attributes:
        vertices: uint32 [n, 6]. weights: float32 [n, 6], each row sums to one.
        neighbours: uint32 [6, m, 2], the vertices before and behind along each direction; m where there is none.
    """

    vertices: np.ndarray
    weights: np.ndarray
    neighbours: np.ndarray

    @property
    def size(self) -> int:
        """m, the number of vertices."""
        return int(self.neighbours.shape[1])

    @classmethod
    def of(cls, image: np.ndarray, xy_std: float, rgb_std: float) -> Lattice:
        """The lattice of an image uint8 [H, W, 3], with standard deviations in pixels and in grey levels.

        Raises:
            NumericsError: the standard deviations are so small for this image that vertices can not be numbered.
        """
        scale = _scales(xy_std, rgb_std)
        radix = _radix(image.shape[:2], scale)
        image = np.ascontiguousarray(image)
        n = image.shape[0] * image.shape[1]
        weights = np.empty((n, DEPTH + 1), np.float32)
        bits = max(4, (n - 1).bit_length())  # photos have about 0.4 vertices a pixel, noise up to 6
        while True:
            table = np.full(1 << bits, -1, np.int64)
            order = np.empty(1 << bits, np.int64)
            vertices = np.empty((n, DEPTH + 1), np.uint32)
            m = _number(image, scale, radix, vertices, weights, table, order, 64 - bits)
            if m >= 0:
                break
            bits += 2
        neighbours = np.empty((DEPTH + 1, m, 2), np.uint32)
        _neighbours(order[:m], table, radix, neighbours, 64 - bits)
        return cls(vertices, weights, neighbours)

    def filter(self, values: np.ndarray) -> np.ndarray:
        """Values float32 [n, c] filtered, not normalised."""
        grid = np.zeros((self.size + 1, values.shape[1]), np.float32)
        splat(self.vertices, self.weights, values, grid)
        blur(self.neighbours, grid, np.zeros_like(grid))
        out = np.empty_like(values)
        slice_(self.vertices, self.weights, grid, out)
        return out


def _scales(xy_std: float, rgb_std: float) -> np.ndarray:
    """Lattice units a pixel or grey level, by axis of the lattice's basis [5] float32."""
    axis = np.arange(DEPTH)
    std = np.array([xy_std, xy_std, rgb_std, rgb_std, rgb_std])
    return (np.sqrt(2 / 3) * (DEPTH + 1) / np.sqrt((axis + 1) * (axis + 2)) / std).astype(np.float32)


def _radix(size: tuple[int, ...], scale: np.ndarray) -> np.ndarray:
    """Weights [6] int64 of a vertex' coordinates in its key; the last is 0, because the coordinates sum to zero."""
    span = np.array([size[1] - 1, size[0] - 1, 255, 255, 255]) * scale.astype(np.float64)
    radix, product = np.zeros(DEPTH + 1, np.int64), 1
    for i in range(DEPTH):
        column = np.where(np.arange(DEPTH) >= i, 1.0, 0.0)
        if i:
            column[i - 1] = i
        radix[i] = product
        product *= int(column @ span) + MARGIN
        if product > MAX_KEY:
            raise NumericsError(
                f"refine: xy_std and rgb_std are too small for an image of {size[0]}x{size[1]}; raise one of them"
            )
    return radix


@compiled
def _simplices(
    row: np.ndarray, x1: float, scale: np.ndarray, radix: np.ndarray, keys: np.ndarray, weights: np.ndarray
) -> None:
    """Keys int64 [W, 6] of the vertices, and weights [W, 6], of one row of the image [W, 3] at height x1."""
    width = row.shape[0]
    total = radix.sum()
    sixth, grain, unit = _F(1 / 6), _F(1 << 24), _F(1 / (1 << 24))
    for x in range(width):
        x0 = (_F(x) - _F(0.5) * _F(width - 1)) * scale[0]
        x2, x3, x4 = _F(row[x, 0]) * scale[2], _F(row[x, 1]) * scale[3], _F(row[x, 2]) * scale[4]
        # coordinates in the lattice's hyperplane, in units of 6
        s = x4
        v5 = _F(-5) * x4 * sixth
        v4 = (s - _F(4) * x3) * sixth
        s += x3
        v3 = (s - _F(3) * x2) * sixth
        s += x2
        v2 = (s - _F(2) * x1) * sixth
        s += x1
        v1 = (s - x0) * sixth
        v0 = (s + x0) * sixth
        a0, a1, a2 = np.floor(v0), np.floor(v1), np.floor(v2)
        a3, a4, a5 = np.floor(v3), np.floor(v4), np.floor(v5)
        b0, b1 = int32(int32((v0 - a0) * grain) * 8), int32(int32((v1 - a1) * grain) * 8 + 1)
        b2, b3 = int32(int32((v2 - a2) * grain) * 8 + 2), int32(int32((v3 - a3) * grain) * 8 + 3)
        b4, b5 = int32(int32((v4 - a4) * grain) * 8 + 4), int32(int32((v5 - a5) * grain) * 8 + 5)
        b0, b5 = max(b0, b5), min(b0, b5)
        b1, b3 = max(b1, b3), min(b1, b3)
        b2, b4 = max(b2, b4), min(b2, b4)
        b1, b2 = max(b1, b2), min(b1, b2)
        b3, b4 = max(b3, b4), min(b3, b4)
        b0, b3 = max(b0, b3), min(b0, b3)
        b2, b5 = max(b2, b5), min(b2, b5)
        b0, b1 = max(b0, b1), min(b0, b1)
        b2, b3 = max(b2, b3), min(b2, b3)
        b4, b5 = max(b4, b5), min(b4, b5)
        b1, b2 = max(b1, b2), min(b1, b2)
        b3, b4 = max(b3, b4), min(b3, b4)
        f0, f1, f2 = (b0 >> 3) * unit, (b1 >> 3) * unit, (b2 >> 3) * unit
        f3, f4, f5 = (b3 >> 3) * unit, (b4 >> 3) * unit, (b5 >> 3) * unit
        key = int64(-(a0 + a1 + a2 + a3 + a4 + a5)) * total
        key += 6 * (int64(a0) * radix[0] + int64(a1) * radix[1] + int64(a2) * radix[2])
        key += 6 * (int64(a3) * radix[3] + int64(a4) * radix[4])
        keys[x, 0], weights[x, 0] = key, _F(1) - (f0 - f5)
        key += total - 6 * radix[b5 & 7]
        keys[x, 1], weights[x, 1] = key, f4 - f5
        key += total - 6 * radix[b4 & 7]
        keys[x, 2], weights[x, 2] = key, f3 - f4
        key += total - 6 * radix[b3 & 7]
        keys[x, 3], weights[x, 3] = key, f2 - f3
        key += total - 6 * radix[b2 & 7]
        keys[x, 4], weights[x, 4] = key, f1 - f2
        key += total - 6 * radix[b1 & 7]
        keys[x, 5], weights[x, 5] = key, f0 - f1


@compiled
def _find(key: int, table: np.ndarray, order: np.ndarray, shift: int) -> Any:
    """Where `key` is or belongs in the table, by multiplicative hashing and linear probing.

    An entry holds 31 bits of the hash above the number of the vertex, so that most other vertices are recognised by the
    hash alone, without a look at their key, and an entry needs 8 bytes.
    """
    mixed = np.uint64(key * GOLDEN)
    s = int64(mixed >> np.uint64(shift))
    mark = int64(mixed & np.uint64(0x7FFFFFFF))
    last = len(table) - 1
    while True:
        entry = table[s]
        if entry < 0 or (entry >> 32 == mark and order[entry & LOW] == key):
            return s
        s = (s + 1) & last


@compiled
def _number(
    image: np.ndarray,
    scale: np.ndarray,
    radix: np.ndarray,
    vertices: np.ndarray,
    weights: np.ndarray,
    table: np.ndarray,
    order: np.ndarray,
    shift: int,
) -> int:
    """Fill `vertices` and `weights`, numbering vertices as they appear; -1 where the table is too small.

    `table`: see `_find`, -1 where free. `order`: the keys by number.
    """
    height, width = image.shape[0], image.shape[1]
    room = len(table) * 5 // 8
    keys = np.empty((width, vertices.shape[1]), np.int64)
    m = 0
    for y in range(height):
        x1 = (_F(y) - _F(0.5) * _F(height - 1)) * scale[1]
        _simplices(image[y], x1, scale, radix, keys, weights[y * width : (y + 1) * width])
        for x in range(width):
            for k in range(keys.shape[1]):
                key = keys[x, k]
                s = _find(key, table, order, shift)
                if table[s] < 0:
                    if m >= room:
                        return -1
                    table[s] = int64(np.uint64(key * GOLDEN) & np.uint64(0x7FFFFFFF)) << 32 | m
                    order[m] = key
                    m += 1
                vertices[y * width + x, k] = table[s] & LOW
    return m


@compiled
def _neighbours(order: np.ndarray, table: np.ndarray, radix: np.ndarray, neighbours: np.ndarray, shift: int) -> None:
    m = len(order)
    total = radix.sum()
    neighbours[:] = m
    for j in range(neighbours.shape[0]):
        step = total - 6 * radix[j]
        for v in range(m):
            entry = table[_find(order[v] + step, table, order, shift)]
            if entry >= 0:  # the way there is the way back
                neighbours[j, v, 0] = entry & LOW
                neighbours[j, entry & LOW, 1] = v


@compiled
def splat(vertices: np.ndarray, weights: np.ndarray, values: np.ndarray, grid: np.ndarray) -> None:
    """Add values [n, c] to the vertices' grid [m + 1, c]."""
    if values.shape[1] == 1:
        grid1 = grid[:, 0]
        for p in range(vertices.shape[0]):
            for k in range(6):
                grid1[vertices[p, k]] += weights[p, k] * values[p, 0]
        return
    for p in range(vertices.shape[0]):
        value = values[p]
        for k in range(vertices.shape[1]):
            row, weight = grid[vertices[p, k]], weights[p, k]
            for c in range(len(value)):
                row[c] += weight * value[c]


@compiled
def slice_(vertices: np.ndarray, weights: np.ndarray, grid: np.ndarray, out: np.ndarray) -> None:
    """Read the grid [m + 1, c] at every pixel: out [n, c]."""
    if out.shape[1] == 1:
        grid1 = grid[:, 0]
        for p in range(vertices.shape[0]):
            total = _F(0)
            for k in range(6):
                total += weights[p, k] * grid1[vertices[p, k]]
            out[p, 0] = total
        return
    for p in range(vertices.shape[0]):
        value = out[p]
        value[:] = 0
        for k in range(vertices.shape[1]):
            row, weight = grid[vertices[p, k]], weights[p, k]
            for c in range(len(value)):
                value[c] += weight * row[c]


@compiled
def blur(neighbours: np.ndarray, grid: np.ndarray, held: np.ndarray) -> None:
    """Blur the grid [m + 1, c] in place along every direction; its last row stands for absent vertices and is 0.

    `held` is scratch of the same shape, its last row 0 as well.
    """
    for j in range(0, neighbours.shape[0], 2):
        _blur_along(neighbours[j], grid, held)
        _blur_along(neighbours[j + 1], held, grid)


@compiled
def _blur_along(neighbours: np.ndarray, grid: np.ndarray, out: np.ndarray) -> None:
    half = _F(0.5)
    if grid.shape[1] == 1:
        old1, new1 = grid[:, 0], out[:, 0]
        for v in range(neighbours.shape[0]):
            new1[v] = old1[v] + half * (old1[neighbours[v, 0]] + old1[neighbours[v, 1]])
        return
    for v in range(neighbours.shape[0]):
        new, old = out[v], grid[v]
        before, behind = grid[neighbours[v, 0]], grid[neighbours[v, 1]]
        for c in range(len(new)):
            new[c] = old[c] + half * (before[c] + behind[c])

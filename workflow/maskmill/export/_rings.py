"""Borders of the connected parts of a mask as closed rings along the edges of pixels, compiled.

Parts are 4-connected pixels of one value. A ring is followed with the part on its right hand. Where a part meets itself
at a corner only, the ring turns left, along the pixels outside: so a ring never touches itself, and a hole that meets
the outer border in a corner is a ring of its own. That makes every part a valid polygon as OGC has it.
"""

from __future__ import annotations

import numpy as np

from maskmill.jit import compiler

_DX, _DY = np.array([1, 0, -1, 0]), np.array([0, 1, 0, -1])  # right, down, left, up


@compiler()
def _root(parent: np.ndarray, one: int) -> int:
    while parent[one] != one:
        parent[one] = parent[parent[one]]
        one = parent[one]
    return one


@compiler()
def parts(mask: np.ndarray, first: int, second: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers int32 [H, W] of the parts, from 1 in the order of their first pixels, and the values of parts 1..n.

    Pixels of the values `first` and `second` have number 0.
    """
    height, width = mask.shape
    labels = np.zeros((height, width), np.int32)
    parent = np.zeros(1024, np.int32)
    used = 1
    for y in range(height):
        for x in range(width):
            value = mask[y, x]
            if value in (first, second):
                continue
            above = labels[y - 1, x] if y > 0 and mask[y - 1, x] == value else 0
            before = labels[y, x - 1] if x > 0 and mask[y, x - 1] == value else 0
            if above and before:
                one, two = _root(parent, above), _root(parent, before)
                labels[y, x] = min(one, two)
                parent[max(one, two)] = min(one, two)
            elif above or before:
                labels[y, x] = above + before
            else:
                if used == len(parent):
                    more = np.zeros(2 * used, np.int32)
                    more[:used] = parent
                    parent = more
                parent[used] = labels[y, x] = used
                used += 1
    number = np.zeros(used, np.int32)
    values = np.zeros(used, mask.dtype)
    count = 0
    for y in range(height):
        for x in range(width):
            if labels[y, x]:
                root = _root(parent, labels[y, x])
                if number[root] == 0:
                    values[count] = mask[y, x]
                    count += 1
                    number[root] = count
                labels[y, x] = number[root]
    return labels, values[:count]


@compiler()
def _turn(labels: np.ndarray, x: int, y: int, way: int, part: int) -> int:
    """How a ring goes on from a corner that it reached by a step `way`: -1 left, 0 straight, 1 right."""
    height, width = labels.shape
    column, row = x - (way == 2 or way == 3), y - (way == 0 or way == 3)  # the pixel ahead on the left
    if 0 <= column < width and 0 <= row < height and labels[row, column] == part:
        return -1
    column, row = x - (way == 1 or way == 2), y - (way == 2 or way == 3)  # and on the right
    return 0 if 0 <= column < width and 0 <= row < height and labels[row, column] == part else 1


@compiler()
def rings(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Corners float64 [n, 2] (x, y) of all rings, where each ends, and the part of each.

    The first corner of a ring stands at its end too. The first ring of a part, in this order, is its outer border.
    """
    height, width = labels.shape
    seen = np.zeros((height, width), np.bool_)  # the edge above a pixel is in a ring
    corners = np.empty((4096, 2), np.float64)
    used = 0
    ends = [0][:0]
    owners = [0][:0]
    for top in range(height):
        for left in range(width):
            part = labels[top, left]
            if part == 0 or seen[top, left] or (top > 0 and labels[top - 1, left] == part):
                continue
            x, y, way = left, top, 0
            begin = used
            while True:
                if used + 2 > len(corners):
                    more = np.empty((2 * len(corners), 2), np.float64)
                    more[:used] = corners[:used]
                    corners = more
                if way == 0:
                    seen[y, x] = True
                x, y = x + _DX[way], y + _DY[way]
                turn = _turn(labels, x, y, way, part)
                if turn == 0:
                    continue
                way = (way + turn) % 4
                corners[used, 0], corners[used, 1] = x, y
                used += 1
                if x == left and y == top and way == 0:
                    break
            corners[used] = corners[begin]
            used += 1
            ends.append(used)
            owners.append(part)
    return corners[:used], np.array(ends, dtype=np.int64), np.array(owners, dtype=np.int64)

"""Polygons of a mask that give every pixel back, for formats that know no holes.

Each 4-connected part of each value becomes one polygon. It runs along the borders of the pixels, moved inwards by
`INSET` of a pixel, so that it gives the part back for both kinds of readers:

- those that ask whether the centre of a pixel is inside, by the even-odd rule;
- those that cut coordinates to whole pixels and fill with the border included (cv2.fillPoly, which Ultralytics calls):
  every cut point lies in a pixel of the part, every edge runs through pixels of the part.

A hole is joined with what lies above it by two edges that lie on each other (a keyhole): from a pixel over the hole
straight up through the part, until it ends. What is hit there is the outer border or the border of another hole, which
begins higher, so the joints of all holes form a tree. Along a joint no pixel's centre is crossed.

The border is followed with the part on the right hand; turning right wherever the pixel ahead on the right is
another's keeps parts that touch at corners apart.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from maskmill.jit import compiler

INSET = 1 / 16  # of a pixel: far more than coordinates lose in float32 and in text, and too little to matter
_ASIDE = 0.25  # joints are left of the pixel's centre
_DX, _DY = np.array([1, 0, -1, 0]), np.array([0, 1, 0, -1])  # right, down, left, up


def polygons(mask: np.ndarray, skipped: tuple[int, int]) -> Iterator[tuple[int, np.ndarray]]:
    """(value, points float64 [n, 2] as x, y in pixels, the image's corner is 0, 0) of every part, from the top left.

    Args:
        mask: unsigned integers [H, W]. skipped: two values that get no polygon.
    """
    points, ends, values = _traced(np.ascontiguousarray(mask), skipped[0], skipped[1])
    start = 0
    for end, value in zip(ends.tolist(), values.tolist(), strict=True):
        yield value, points[start:end]
        start = end


@compiler()
def _turn(mask: np.ndarray, x: int, y: int, way: int, value: int) -> int:
    """How the border goes on from a corner that it reached by a step `way`: 1 to the right, 0 straight, -1 left."""
    height, width = mask.shape
    column, row = x - (way == 1 or way == 2), y - (way == 2 or way == 3)  # the pixel ahead on the right
    if not (0 <= column < width and 0 <= row < height and mask[row, column] == value):
        return 1
    column, row = x - (way == 2 or way == 3), y - (way == 0 or way == 3)  # and on the left
    return -1 if 0 <= column < width and 0 <= row < height and mask[row, column] == value else 0


@compiler()
def _longer(array: np.ndarray, room: int) -> np.ndarray:
    """The array with more room at its end."""
    more = np.empty((room, *array.shape[1:]), array.dtype)
    more[: len(array)] = array
    return more


@compiler()
def _joined(
    mask: np.ndarray, edge: np.ndarray, corner: np.ndarray, after: np.ndarray, holes: list[tuple[int, int, int]]
) -> tuple[np.ndarray, np.ndarray]:
    """Corners and their successors, with four more for each hole: the ends of its joint, there and back."""
    used, more = len(corner), 4 * len(holes)
    points, following = np.empty((used + more, 2), np.float64), np.empty(used + more, np.int64)
    points[:used], following[:used] = corner, after
    across = np.array([-hole[0] for hole in holes])  # of joints that end on one edge, the last one is put in first
    for number in np.argsort(across, kind="mergesort") if len(holes) > 0 else across:
        x, y, below = holes[number]
        end = y
        while end > 0 and mask[end - 1, x] == mask[y, x]:
            end -= 1
        above = edge[end, x]
        one, two, three, four = used, used + 1, used + 2, used + 3
        used += 4
        for there, height in ((one, end + INSET), (two, y + 1 - INSET), (three, y + 1 - INSET), (four, end + INSET)):
            points[there, 0], points[there, 1] = x + _ASIDE, height
        following[four], following[one] = following[above], two
        following[two], following[three] = following[below], four
        following[above], following[below] = one, three
    return points, following


@compiler()
def _walked(
    points: np.ndarray, following: np.ndarray, outer: list[tuple[int, int]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points of all polygons in their order, where each ends, and its value."""
    walked = np.empty_like(points)
    ends, values = np.empty(len(outer), np.int64), np.empty(len(outer), np.int64)
    count = 0
    for part, (start, value) in enumerate(outer):
        here = start
        while True:
            walked[count] = points[here]
            count += 1
            here = following[here]
            if here == start:
                break
        ends[part], values[part] = count, value
    return walked[:count], ends, values


@compiler()
def _traced(mask: np.ndarray, first: int, second: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points [n, 2] of all polygons, where each ends [parts], and the value of each [parts]."""
    height, width = mask.shape
    edge = np.full((height, width), -1, np.int64)  # corner that begins the edge above a pixel
    room = 256
    corner = np.empty((room, 2), np.float64)  # x, y
    after = np.empty(room, np.int64)  # the next corner
    used = 0
    outer = [(0, 0)][:0]  # first corner, value
    holes = [(0, 0, 0)][:0]  # x, y of a pixel over the hole, corner that begins the edge below it
    for top in range(height):
        for left in range(width):
            value = mask[top, left]
            if value in (first, second) or edge[top, left] >= 0:
                continue
            if top > 0 and mask[top - 1, left] == value:
                continue
            start = used
            used += 1  # where it lies is known when the border comes back
            x, y, way, area = left, top, 0, 0
            over_x, over_y, over_corner = 0, height + 1, -1
            while True:
                if used >= room:
                    room *= 2
                    corner, after = _longer(corner, room), _longer(after, room)
                if way == 0:
                    edge[y, x] = used - 1
                elif way == 2 and y < over_y:
                    over_x, over_y, over_corner = x - 1, y, used - 1
                area += x * _DY[way] - y * _DX[way]
                x, y = x + _DX[way], y + _DY[way]
                turn = _turn(mask, x, y, way, value)
                if turn == 0:
                    continue
                came, way = way, (way + turn) % 4
                here = start if (x == left and y == top and way == 0) else used
                corner[here, 0] = x + INSET * (_DX[(came + 1) % 4] + _DX[(way + 1) % 4])  # inwards from both edges
                corner[here, 1] = y + INSET * (_DY[(came + 1) % 4] + _DY[(way + 1) % 4])
                if here == start:
                    break
                after[used - 1] = used
                used += 1
            after[used - 1] = start
            if area > 0:
                outer.append((start, int(value)))
            else:
                holes.append((over_x, over_y - 1, over_corner))
    corner, after = _joined(mask, edge, corner[:used], after[:used], holes)
    return _walked(corner, after, outer)

"""Polygons with holes of a mask of any height, band by band: a part that crosses bands is one polygon.

What has met no later band is given at once; parts at a border of two bands wait until the last band that they reach.
So memory follows the width of a band and the parts that are not finished, not the image.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from maskmill.export._rings import parts, rings


def outlines(
    bands: Iterable[tuple[int, np.ndarray]], skipped: tuple[int, int], tolerance: float = 0.0
) -> Iterator[tuple[int, Any]]:
    """(value, shapely Polygon) of every 4-connected part, in pixels of the mask: its corner is 0, 0, y grows downwards.

    With tolerance 0 the area is the number of pixels, and equal parts touch. All polygons are valid, holes are kept.

    Args:
        bands: (first row, values [rows, W]) from the top, without gaps. skipped: two values that get no polygon.
        tolerance: how far, in pixels, a simplified border may be from the exact one (Douglas and Peucker, keeping the
            topology of each polygon; borders of neighbours are simplified one by one).
    """
    waiting = _Waiting()
    for top, band in bands:
        labels, values = parts(np.ascontiguousarray(band), skipped[0], skipped[1])
        shapes = _polygons(labels, top)
        for value, shape in waiting.band(band, labels, values, shapes):
            yield value, _simple(shape, tolerance)
    for value, shape in waiting.rest():
        yield value, _simple(shape, tolerance)


def _polygons(labels: np.ndarray, top: int) -> np.ndarray:
    """A Polygon of each part 1..n, object [n]."""
    import shapely

    corners, ends, owners = rings(labels)
    if not len(ends):
        return np.empty(0, object)
    corners[:, 1] += top
    begins = np.concatenate([[0], ends[:-1]])
    order = np.argsort(owners, kind="stable")  # all rings of a part, the outer one first
    lengths = (ends - begins)[order]
    starts = np.concatenate([[0], np.cumsum(lengths)])
    rows = np.repeat(begins[order] - starts[:-1], lengths) + np.arange(starts[-1])
    of_parts = np.concatenate([[0], np.cumsum(np.bincount(owners)[1:])])
    kind = shapely.GeometryType.POLYGON
    return np.asarray(shapely.from_ragged_array(kind, corners[rows], (starts, of_parts)))


class _Waiting:
    """Parts that touch the last row of the last band, as groups that a later band may join or end."""

    def __init__(self) -> None:
        self._row: np.ndarray | None = None  # values [W] of the last row
        self._groups: np.ndarray | None = None  # and the groups there, -1 for none
        self._pieces: list[tuple[int, list[Any]]] = []  # of each group: value, polygons

    def band(
        self, band: np.ndarray, labels: np.ndarray, values: np.ndarray, shapes: np.ndarray
    ) -> Iterator[tuple[int, list[Any]]]:
        """Take the next band; (value, polygons that make one part) of what it ends."""
        old, count = len(self._pieces), len(values)
        parent = np.arange(old + count)
        if self._row is not None and self._groups is not None:
            joined = (self._row == band[0]) & (labels[0] > 0)
            pairs = np.unique(np.stack([self._groups[joined], labels[0][joined] - 1 + old], axis=1), axis=0)
            for one, two in pairs.tolist():
                a, b = _root(parent, one), _root(parent, two)
                parent[max(a, b)] = min(a, b)
        members: dict[int, list[Any]] = {}
        kept: dict[int, int] = {}  # value of each group
        for i in range(old + count):
            root = _root(parent, i)
            value, pieces = self._pieces[i] if i < old else (int(values[i - old]), [shapes[i - old]])
            members.setdefault(root, []).extend(pieces)
            kept[root] = value
        last = np.where(labels[-1] > 0, labels[-1] - 1 + old, -1)
        waits = {_root(parent, int(i)) for i in np.unique(last[last >= 0])}
        place = {root: number for number, root in enumerate(sorted(waits))}
        self._pieces = [(kept[root], members[root]) for root in sorted(waits)]
        self._row = band[-1].copy()
        self._groups = np.array([place[_root(parent, int(i))] if i >= 0 else -1 for i in last])
        for root, pieces in members.items():
            if root not in waits:
                yield kept[root], pieces

    def rest(self) -> Iterator[tuple[int, list[Any]]]:
        """What waits when the image has ended."""
        yield from self._pieces
        self._pieces = []


def _root(parent: np.ndarray, one: int) -> int:
    while parent[one] != one:
        one = int(parent[one])
    return one


def _simple(pieces: list[Any], tolerance: float) -> Any:
    """One polygon of pieces that share edges, without corners on straight lines, simplified by the tolerance."""
    import shapely

    whole = pieces[0] if len(pieces) == 1 else shapely.union_all(pieces)
    if len(pieces) > 1:
        whole = shapely.simplify(whole, 0)  # corners where bands met
    if tolerance > 0:
        simple = shapely.simplify(whole, tolerance, preserve_topology=True)
        whole = simple if simple.is_valid and not simple.is_empty else whole
    return whole

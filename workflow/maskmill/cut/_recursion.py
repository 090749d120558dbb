"""Cutting in two again and again: the order of the cuts and where they end."""

from __future__ import annotations

import heapq
from collections.abc import Callable

import numpy as np


def recursion(
    count: int, segments: int, stop: float, split: Callable[[np.ndarray], tuple[float, np.ndarray]]
) -> tuple[np.ndarray, float]:
    """Labels int64 [count] of tokens that are cut in two again and again, and the Ncut of the last cut (0: none).

    The cheapest of all possible next cuts is made first, so that a limit on the segments keeps the clearest ones.

    Args:
        segments: the most parts. stop: a cut that costs as much is not made.
        split: of the numbers of a part's tokens [m], ascending: what cutting it costs, and one side, bool [m]. Where
            there is nothing to cut the side is empty.
    """
    labels, last, parts = np.zeros(count, np.int64), 0.0, 1
    waiting: list[tuple[float, int, np.ndarray, np.ndarray]] = []

    def propose(part: np.ndarray) -> None:
        value, above = split(part)
        heapq.heappush(waiting, (value, int(part[0]), part, above))  # parts are disjoint: no ties beyond part[0]

    propose(np.arange(count))
    while waiting and parts < segments:
        value, _, part, above = heapq.heappop(waiting)
        if not above.any() or value >= stop:
            break
        last = value
        labels[part[above]] = parts
        parts += 1
        propose(part[above])
        propose(part[~above])
    return labels, last

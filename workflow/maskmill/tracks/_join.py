"""Matches of pairs of frames become tracks of a sequence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from maskmill.tracks._match import assigned

Scores = Callable[[int, int], np.ndarray]  # (frame a, later frame b) -> how alike their regions are, [n, m]


@dataclass(frozen=True)
class Linked:
    """The tracks of a sequence.

    Attributes:
        tracks: of each frame the track of each region, int64 [n] from 0, in the order in which they begin. scores: how
            alike each region is to the one before it on its track, float64 [n]; NaN where the track begins.
    """

    tracks: list[np.ndarray]
    scores: list[np.ndarray]
    count: int


def linked(counts: Sequence[int], scores: Scores, gap: int) -> Linked:
    """Follow the regions of a sequence from frame to frame.

    Regions of a frame are first matched with those of the frame before. What is left of both is matched with what was
    lost one frame earlier, and so on: a track may be missing in up to `gap` frames.

    Args:
        counts: regions of each frame.
    """
    tracks = [np.full(count, -1, np.int64) for count in counts]
    links = [np.full(count, np.nan) for count in counts]
    goes_on = [np.zeros(count, bool) for count in counts]
    number = 0
    for b in range(len(counts)):
        for a in range(b - 1, max(-1, b - gap - 2), -1):
            ended, new = np.flatnonzero(~goes_on[a]), np.flatnonzero(tracks[b] < 0)
            if not len(ended) or not len(new):
                continue
            found = scores(a, b)[np.ix_(ended, new)]
            for i, j in assigned(found):
                tracks[b][new[j]], links[b][new[j]] = tracks[a][ended[i]], found[i, j]
                goes_on[a][ended[i]] = True
        begin = tracks[b] < 0
        tracks[b][begin] = number + np.arange(begin.sum())
        number += int(begin.sum())
    return Linked(tracks, links, number)

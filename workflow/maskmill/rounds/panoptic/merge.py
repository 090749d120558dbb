"""Instances and a semantic map become one panoptic map (Kirillov et al., Panoptic FPN, 2019)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from maskmill.images.instances import Instances, ranked
from maskmill.rounds.panoptic.params import Params


@dataclass(frozen=True)
class Found(Instances):
    """What the network finds in one image: instances, and on their grid a semantic map.

    Attributes:
        semantic: int64 [h, w], 0 = a thing, 1..s = a class of stuff.
        certain: float32 [h, w], probability of that class.
    """

    semantic: np.ndarray
    certain: np.ndarray


def merged(found: Found, things: int, params: Params, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Mask [h, w] and how sure each cell is, [h, w] float32.

    Instances of at least `paint_score` are painted, best first, where no better one is; one of which more than
    `overlap` is taken is left out. Between them lies stuff, but for classes that have less than `stuff_area` of the
    image there. What is left is 0: a thing that no instance stands for, or too little stuff; nothing is sure there.

    Args:
        things: classes of instances; class c of stuff becomes things + c.
    """
    mask, sure = np.zeros(found.size, dtype), np.zeros(found.size, np.float32)
    free = np.ones(found.size, bool)
    for i in ranked(found.scores):
        own, area = found.masks[i] & free, int(found.masks[i].sum())
        if found.scores[i] < params.paint_score or area - int(own.sum()) > params.overlap * area:
            continue
        mask[own], sure[own] = found.labels[i], found.scores[i]
        free &= ~own
    counts = np.bincount(found.semantic[free], minlength=1)
    large = counts >= params.stuff_area * mask.size
    large[0] = False
    stuff = free & large[np.minimum(found.semantic, len(counts) - 1)]
    mask[stuff], sure[stuff] = things + found.semantic[stuff], found.certain[stuff]
    return mask, sure

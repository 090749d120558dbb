"""How alike the regions of two frames are, and which of them are one thing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from maskmill.images.flow import Flow, token_flow
from maskmill.recipe.sections import Tracks
from maskmill.tracks._regions import Regions

_SHORT = 1e-9  # a mean token that is no longer than this has no direction


@dataclass(frozen=True)
class Frame:
    """One image of a sequence.

    Attributes:
        tokens: float [h, w, d], or None where neither flow nor matching asks for them. means: [n, d] of the regions.
    """

    regions: Regions
    tokens: np.ndarray | None = None
    means: np.ndarray | None = None

    @classmethod
    def of(cls, regions: Regions, tokens: np.ndarray | None) -> Frame:
        """A frame with the mean tokens of its regions."""
        return cls(regions, tokens, None if tokens is None else regions.means(tokens))


def alike(a: Frame, b: Frame, settings: Tracks, distance: int) -> np.ndarray:
    """How alike each region of frame a is to each of a later frame b, float64 [n, m]; 0 for pairs that may not be one.

    `match: overlap`: IoU of the region of a, carried to b by the flow, with that of b. `match: features`: the mean of
    that and of the cosine of their mean tokens (not below 0), from which the mean token of both frames is taken off;
    weighted by `overlap`. Pairs whose boxes, once carried, are further apart than `radius` tokens a frame, and with
    `within: class` pairs of two classes, are 0, and so are those below `least`.

    Args:
        distance: frames from a to b, at least 1; the flow may be so many times longer.
    """
    if not len(a.regions) or not len(b.regions):
        return np.zeros((len(a.regions), len(b.regions)))
    back = _flow(a, b, settings, distance)
    carried = a.regions.cells[:, back.target(b.regions.grid, a.regions.grid).ravel()]
    both = (carried @ b.regions.cells.T).toarray()
    areas = np.asarray(carried.sum(axis=1)).ravel()
    overlap = both / np.maximum(areas[:, None] + b.regions.areas[None] - both, 1)
    found, near = overlap, both > 0
    if settings.match == "features":
        found = settings.overlap * overlap + (1 - settings.overlap) * _cosines(a, b)
        near |= _near(a, b, settings.radius * distance)
    if settings.within == "class":
        near &= a.regions.classes[:, None] == b.regions.classes[None]
    return np.where(near & (found >= settings.least), found, 0.0)


def _flow(a: Frame, b: Frame, settings: Tracks, distance: int) -> Flow:
    """Ways from frame b back to a."""
    if settings.flow == "none" or a.tokens is None or b.tokens is None:
        return Flow.still((1, 1))
    return token_flow(a.tokens, b.tokens, settings.radius * distance)[1].filled()


def _cosines(a: Frame, b: Frame) -> np.ndarray:
    """Cosines of the mean tokens, without the mean of both frames and not below 0, float64 [n, m]."""
    assert a.tokens is not None
    assert b.tokens is not None
    centre = (a.tokens.mean(axis=(0, 1), dtype=np.float64) + b.tokens.mean(axis=(0, 1), dtype=np.float64)) / 2
    sides = []
    for means in (a.means, b.means):
        apart = np.asarray(means) - centre
        length = np.linalg.norm(apart, axis=1, keepdims=True)
        sides.append(apart / np.where(length > _SHORT, length, np.inf))
    return np.maximum(np.einsum("nd,md->nm", sides[0], sides[1]), 0.0)


def _near(a: Frame, b: Frame, radius: int) -> np.ndarray:
    """Pairs whose boxes are at most `radius` tokens apart in both directions, bool [n, m]."""
    assert a.tokens is not None
    h, w = a.tokens.shape[:2]
    one, other = a.regions.boxes[:, None], b.regions.boxes[None]
    reach = np.array([radius / h, radius / w]) + 1e-9
    apart = np.maximum(other[..., :2] - one[..., 2:], one[..., :2] - other[..., 2:])
    return np.asarray((apart <= reach).all(-1))


def assigned(scores: np.ndarray) -> list[tuple[int, int]]:
    """Pairs (row, column) of the one-to-one assignment of the highest total; pairs of score 0 stay apart."""
    from scipy.optimize import linear_sum_assignment

    if not scores.size:
        return []
    rows, columns = linear_sum_assignment(scores, maximize=True)
    return [(int(i), int(j)) for i, j in zip(rows, columns, strict=True) if scores[i, j] > 0]

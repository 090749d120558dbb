"""Where the tokens of one frame are in the next: the most similar token within a radius, found both ways.

This needs no model besides the stored tokens. It is as fine as a token: what moves less stays where it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from maskmill.images.masks import to_size
from maskmill.images.nodata import nearest_valid

_MARGIN = 1e-6  # a longer way has to be better by this much: equal tokens stay where they are


@dataclass(frozen=True)
class Flow:
    """Ways from the tokens of a frame to another.

    Attributes:
        steps: int64 [h, w, 2], (down, right) in tokens. sure: bool [h, w], the token that is reached leads back here.
    """

    steps: np.ndarray
    sure: np.ndarray

    @classmethod
    def still(cls, grid: tuple[int, int]) -> Flow:
        """Nothing moves, on a grid (h, w)."""
        return cls(np.zeros((*grid, 2), np.int64), np.ones(grid, bool))

    def filled(self) -> Flow:
        """With the way of the nearest sure token wherever a token is not sure; where none is, nothing moves."""
        if not self.sure.any():
            return Flow.still((self.sure.shape[0], self.sure.shape[1]))
        return Flow(nearest_valid(self.steps, self.sure), self.sure)

    def target(self, grid: tuple[int, int], other: tuple[int, int]) -> np.ndarray:
        """The cell of a grid over the other frame that each cell of a grid over this frame leads to.

        Args:
            grid: (H, W), cells of this frame. other: (H', W'), cells of the other.

        Returns:
            int64 [H, W], the index of the cell in row-major order. Ways out of the frame end at its border.
        """
        h, w = self.sure.shape
        steps = np.stack([to_size(self.steps[..., axis], grid) for axis in range(2)], -1)
        rows = ((np.arange(grid[0])[:, None] + 0.5) / grid[0] + steps[..., 0] / h) * other[0]
        columns = ((np.arange(grid[1])[None] + 0.5) / grid[1] + steps[..., 1] / w) * other[1]
        rows = np.clip(np.floor(rows + 1e-9).astype(np.int64), 0, other[0] - 1)
        columns = np.clip(np.floor(columns + 1e-9).astype(np.int64), 0, other[1] - 1)
        return np.asarray(rows * other[1] + columns)


def token_flow(a: np.ndarray, b: np.ndarray, radius: int) -> tuple[Flow, Flow]:
    """The flows from frame a to b and from b to a.

    Each token leads to the one of the highest cosine at most `radius` tokens away in both directions; of equals to the
    nearest, of these to the one above, then to the one on the left. The mean token of both frames is taken off first:
    what all tokens have in common says nothing. A token is sure where the one that it leads to leads back to it.

    Args:
        a, b: float [h, w, d]. Tokens of b on another grid are looked up on that of a.
        radius: in tokens, at least 0.

    Returns:
        Both on the grid of a.
    """
    h, w = a.shape[:2]
    if b.shape[:2] != (h, w):
        places = to_size(np.arange(b.shape[0] * b.shape[1]).reshape(b.shape[:2]), (h, w))
        b = b.reshape(-1, b.shape[2])[places]
    first, second = _directions(a, b)
    forth, back = _Best((h, w)), _Best((h, w))
    shifts = [(y, x) for y in range(-radius, radius + 1) for x in range(-radius, radius + 1)]
    for y, x in sorted(shifts, key=lambda shift: (shift[0] ** 2 + shift[1] ** 2, shift)):
        if abs(y) >= h or abs(x) >= w:
            continue
        here = slice(max(0, -y), h - max(0, y)), slice(max(0, -x), w - max(0, x))
        there = slice(max(0, y), h - max(0, -y)), slice(max(0, x), w - max(0, -x))
        cosine = np.einsum("ijk,ijk->ij", first[here], second[there])
        forth.offer(here, cosine, (y, x))
        back.offer(there, cosine, (-y, -x))
    return Flow(forth.steps, _returns(forth.steps, back.steps)), Flow(back.steps, _returns(back.steps, forth.steps))


class _Best:
    """The best way of each token so far."""

    def __init__(self, grid: tuple[int, int]) -> None:
        self.steps = np.zeros((*grid, 2), np.int64)
        self._cosine = np.full(grid, -np.inf, np.float32)

    def offer(self, where: tuple[slice, slice], cosine: np.ndarray, step: tuple[int, int]) -> None:
        better = cosine > self._cosine[where] + _MARGIN
        self._cosine[where][better] = cosine[better]
        self.steps[where][better] = step


def _directions(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tokens without the mean of both frames, of length 1 (or 0), float32."""
    a, b = a.astype(np.float32), b.astype(np.float32)
    mean = (a.mean(axis=(0, 1), dtype=np.float64) + b.mean(axis=(0, 1), dtype=np.float64)) / 2
    found = []
    for tokens in (a, b):
        apart = (tokens - mean).astype(np.float32)
        length = np.sqrt(np.einsum("ijk,ijk->ij", apart, apart))[..., None]
        found.append(apart / np.where(length > _MARGIN, length, np.float32(np.inf)))
    return found[0], found[1]


def _returns(forth: np.ndarray, back: np.ndarray) -> np.ndarray:
    """Where the way there and the way back end where they began, bool [h, w]."""
    h, w = forth.shape[:2]
    rows, columns = np.arange(h)[:, None] + forth[..., 0], np.arange(w)[None] + forth[..., 1]
    return np.asarray((back[rows, columns] == -forth).all(-1))

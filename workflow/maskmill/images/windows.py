"""Windows of an image that is larger than one: where they lie, and which pixels count as whose."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise, product

import numpy as np

from maskmill.errors import StoreError
from maskmill.images.view import View

Box = tuple[int, int, int, int]  # top, left, height, width


def starts(length: int, size: int, overlap: int) -> list[int]:
    """Where windows of `size` start along a side of `length` pixels, ascending: every `size - overlap` pixels.

    The last one is shifted inwards to end where the side does, so that all are equally large; a side that is no longer
    than a window has one. `overlap` is below `size`.
    """
    last = length - size
    return [0] if last <= 0 else [*range(0, last, size - overlap), last]


def grid(whole: tuple[int, int], size: int, overlap: int) -> Iterator[Box]:
    """The windows of an image of `whole` (height, width) pixels, row by row; one that does not exceed `size` has one.

    Their sides are `size`, or the image's where that is shorter.
    """
    height, width = (min(side, size) for side in whole)
    for top, left in product(*(starts(side, size, overlap) for side in whole)):
        yield top, left, height, width


def core(view: View) -> Box:
    """The pixels of a window that no other window is nearer to: top, left, height, width *in the window*.

    Where two windows overlap, the border is in the middle of the overlap. The cores of all windows tile the image: each
    of its pixels is in one of them. They follow from the view alone (its window, `whole` and `overlap`), whichever
    windows are left out as empty.

    Raises:
        StoreError: the view has no window, or one that is not of the grid.
    """
    if view.window is None or view.whole is None:
        raise StoreError(f"view {view.text()} has no window; run snakemake again")
    top, left, height, width = view.window
    above, below = _span(top, height, view.whole[0], view.overlap)
    before, after = _span(left, width, view.whole[1], view.overlap)
    return above, before, below - above, after - before


def core_in_whole(view: View) -> Box:
    """As `core`, in pixels of the image that the window is of."""
    top, left, height, width = core(view)
    assert view.window is not None  # `core` has said so
    return view.window[0] + top, view.window[1] + left, height, width


def cuts(length: int, size: int, overlap: int) -> list[int]:
    """The seams along a side: each number is the first pixel of the next core, so the seam lies before it."""
    begins = starts(length, size, overlap)
    return [(a + b + size) // 2 for a, b in pairwise(begins)]


def keep_core(ids: np.ndarray, view: str | None, ignore: int) -> np.ndarray:
    """Values [height, width] of a picture with `ignore` outside its core, so that no pixel of an image counts twice.

    Args:
        ids: at the size of the picture. view: as its row of the manifest has it; a picture that is no window comes
            back as it is.
    """
    shown = View.of(view) if view else None
    if shown is None or shown.window is None:
        return ids
    top, left, height, width = core(shown)
    out = np.full_like(ids, ignore)
    out[top : top + height, left : left + width] = ids[top : top + height, left : left + width]
    return out


def _span(start: int, size: int, length: int, overlap: int) -> tuple[int, int]:
    """First and past the last pixel of the core along one side, counted from the window's start."""
    stride, last = size - overlap, length - size
    regular = stride > 0 and start % stride == 0 and start < last
    if not (0 <= start <= last and (regular or start == last)):
        raise StoreError(
            f"a window of {size} pixels at {start} of {length} is not one of maskmill; run snakemake again"
        )
    if last == 0:
        return 0, size
    previous = ((start - 1) // stride) * stride if start else None
    following = min(start + stride, last) if start < last else None
    low = 0 if previous is None else (previous + start + size) // 2 - start
    high = size if following is None else (start + following + size) // 2 - start
    return low, high

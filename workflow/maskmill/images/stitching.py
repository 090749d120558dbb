"""Masks of windows put together into the mask of the image that they were cut from, block by block.

A canvas is all of a level of an image, or of a page of it. Every pixel takes the value of the window whose core it lies
in (`maskmill.images.windows`), so that overlaps are cut in their middle; what no window covers, because it was left
out as empty, is ignore. Nothing here holds a whole canvas: `stitch` gives a lazy array with one block a core.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from maskmill.errors import StoreError
from maskmill.images.masks import ignore_value, to_size
from maskmill.images.view import View
from maskmill.images.windows import core_in_whole


class Picture(Protocol):
    """What is needed to know of a picture: a row of the manifest, or a window of a new image."""

    @property
    def id(self) -> str: ...

    @property
    def path(self) -> str: ...

    @property
    def height(self) -> int: ...

    @property
    def width(self) -> int: ...

    @property
    def view(self) -> str | None: ...


@dataclass(frozen=True)
class Canvas:
    """An image, or a page of it, and the pictures that show it: one that shows all of it, or its windows.

    Attributes:
        id: of the image or page. pictures: sorted by id. view: of the first of them; None for a photo.
        size: (height, width) of the level that was cut.
    """

    id: str
    pictures: tuple[Picture, ...]
    view: View | None
    size: tuple[int, int]

    @property
    def path(self) -> str:
        """The file."""
        return self.pictures[0].path

    @property
    def windows(self) -> bool:
        """Whether it was cut."""
        return self.view is not None and self.view.window is not None


def canvases(pictures: Iterable[Picture]) -> list[Canvas]:
    """The images that pictures show, in the order of their first pictures.

    Raises:
        StoreError: windows of one image are of different levels, pages or sizes of it; names the image.
    """
    groups: dict[str, list[tuple[Picture, View | None]]] = {}
    for picture in pictures:
        view = View.of(picture.view) if picture.view else None
        name = picture.id if view is None or view.window is None else picture.id.rpartition("/")[0]
        groups.setdefault(name, []).append((picture, view))
    return [_canvas(name, members) for name, members in groups.items()]


def _canvas(name: str, members: Sequence[tuple[Picture, View | None]]) -> Canvas:
    first, view = members[0]
    pictures = tuple(picture for picture, _ in members)
    size = first.height, first.width
    if view is not None and view.window is not None:
        if len({(v.whole, v.level, v.page, v.overlap) for _, v in members if v is not None}) > 1 or view.whole is None:
            raise StoreError(
                f"{name}: its windows are of different levels or sizes of the file, so they fit no common mask; "
                "run snakemake again"
            )
        size = view.whole
    elif len(members) > 1:
        raise StoreError(f"the manifest holds {name!r} {len(members)} times; run snakemake again")
    return Canvas(name, pictures, view, size)


def stitch(canvas: Canvas, read_mask: Callable[[Picture], np.ndarray], dtype: np.dtype) -> Any:
    """The mask of a canvas as a `dask.array` [H, W], one block the core of a window; reads a mask when its block is.

    Args:
        read_mask: the mask [h, w] of a picture on any grid, 0 background, 1..k, the type's largest value ignore.
        dtype: of the masks, uint8 or uint16.

    Raises:
        StoreError: cores of windows overlap, so they are not of one grid; names the image.
    """
    import dask.array as da

    boxes = [core_in_whole(View.of(p.view or "")) if canvas.windows else (0, 0, *canvas.size) for p in canvas.pictures]
    edges = [_edges(boxes, axis, canvas.size[axis]) for axis in (0, 1)]
    known = [{start: i for i, start in enumerate(side)} for side in edges]
    places: dict[tuple[int, int], tuple[Picture, tuple[int, int, int, int]]] = {}
    for picture, box in zip(canvas.pictures, boxes, strict=True):
        place = known[0][box[0]], known[1][box[1]]
        ends = edges[0][place[0] + 1], edges[1][place[1] + 1]
        if place in places or ends != (box[0] + box[2], box[1] + box[3]):
            raise StoreError(f"{picture.id}: a window that is not of the grid of the others; run snakemake again")
        places[place] = picture, box
    heights, widths = (tuple(np.diff(side).tolist()) for side in edges)

    def block(block_id: tuple[int, int]) -> np.ndarray:
        if block_id not in places:
            return np.full((heights[block_id[0]], widths[block_id[1]]), ignore_value(dtype), dtype)
        picture, box = places[block_id]
        return _cut(picture, box, read_mask(picture), canvas)

    return da.map_blocks(
        block, dtype=dtype, chunks=(heights, widths), meta=np.empty((0, 0), dtype), name=f"mask of {canvas.id}"
    )


def _edges(boxes: Sequence[tuple[int, int, int, int]], axis: int, length: int) -> list[int]:
    """Where blocks begin along an axis, and the end: borders of cores, also around windows that were left out."""
    found = {0, length}
    for box in boxes:
        found |= {box[axis], box[axis] + box[axis + 2]}
    return sorted(found)


def _cut(picture: Picture, box: tuple[int, int, int, int], mask: np.ndarray, canvas: Canvas) -> np.ndarray:
    """The core's part of a window's mask [h, w], at the size of the picture."""
    mask = to_size(mask, (picture.height, picture.width))
    if not canvas.windows:
        return mask
    view = View.of(picture.view or "")
    assert view.window is not None  # `canvases` has put windows together
    top, left = box[0] - view.window[0], box[1] - view.window[1]
    return mask[top : top + box[2], left : left + box[3]]


def bands(mask: Any, rows: int) -> Iterator[tuple[int, np.ndarray]]:
    """(first row, values [rows, W]) of a `dask.array`, from the top; the last band may be lower.

    Blocks are computed one after the other by this thread: what is in memory at a time does not grow with the cores.
    """
    for top in range(0, mask.shape[0], rows):
        yield top, mask[top : top + rows].compute(scheduler="synchronous")


def halved(mask: np.ndarray) -> np.ndarray:
    """Half of a mask [H, W], rounded up: of each 2 x 2 pixels the most frequent value, of equals the first in them.

    Averages of class numbers mean nothing. Where a side is odd, its last line stands twice.
    """
    mask = np.pad(mask, [(0, side % 2) for side in mask.shape], mode="edge")
    a, b, c, d = mask[::2, ::2], mask[::2, 1::2], mask[1::2, ::2], mask[1::2, 1::2]
    alone = (a != b) & (a != c) & (a != d)  # two of the others may agree
    return np.where(alone & ((b == c) | (b == d)), b, np.where(alone & (c == d), c, a))

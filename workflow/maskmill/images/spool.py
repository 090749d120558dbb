"""A mask and the halves of it on the disk while formats are written: any of them can be read in blocks of any shape."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from maskmill.images.stitching import bands, halved

TILE = 1024  # pixels of a side of a block on the disk
SMALLEST = 512  # levels are halved until both sides are at most this


class Levels:
    """A mask [H, W] as a `dask.array` from the disk, and its halves, which are made where somebody asks for them.

    Attributes:
        whole: level 0.
    """

    def __init__(self, folder: Path, mask: Any) -> None:
        self._folder = folder
        self.whole = self._stored(0, mask.shape, mask.dtype, _lines(mask))

    @cached_property
    def all(self) -> list[Any]:
        """Level 0, 1, ...: each half as high and wide as the one before, rounded up (`halved`)."""
        found = [self.whole]
        while max(found[-1].shape) > SMALLEST:
            last = found[-1]
            shape = tuple(-(-side // 2) for side in last.shape)
            halves = ((top // 2, halved(band)) for top, band in bands(last, TILE))
            found.append(self._stored(len(found), shape, last.dtype, halves))
        return found

    def _stored(self, level: int, shape: tuple[int, ...], dtype: Any, lines: Iterator[tuple[int, Any]]) -> Any:
        import dask.array as da
        import zarr

        chunks = tuple(min(TILE, side) for side in shape)
        array = zarr.create_array(str(self._folder / str(level)), shape=shape, chunks=chunks, dtype=dtype)
        for top, band in lines:
            array[top : top + len(band)] = band
        return da.from_zarr(array)


@contextlib.contextmanager
def spooled(mask: Any, folder: Path) -> Iterator[Levels]:
    """The levels of a `dask.array` [H, W]; `folder` is made for them and removed at the end.

    Every block of the mask is computed once, one row of blocks at a time, whatever the number of formats.
    """
    import shutil

    folder.mkdir(parents=True)
    try:
        yield Levels(folder, mask)
    finally:
        shutil.rmtree(folder)


def _lines(mask: Any) -> Iterator[tuple[int, Any]]:
    """Bands of a mask, each a row of its blocks."""
    top = 0
    for height in mask.chunks[0]:
        yield top, mask[top : top + height].compute(scheduler="synchronous")
        top += height

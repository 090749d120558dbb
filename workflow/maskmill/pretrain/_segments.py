"""Segments of a photo from the stores of a cut, cropped and mirrored with the views that a method draws of it.

A cut has its segments on a grid of tokens that covers the whole photo, so a crop given in shares of the photo has a
place on that grid whatever the sizes are.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from maskmill.errors import StoreError
from maskmill.store.ragged import Ragged

if TYPE_CHECKING:
    import torch

Box = tuple[float, float, float, float]
KEPT_BYTES = 1 << 30  # of segments in memory


class SegmentStores:
    """Segments of any image of a run by its id: those of the first shards from memory, of others from their stores.

    Args:
        paths: Ragged "segments" of all shards of one cut.
    """

    def __init__(self, paths: Sequence[str | Path]) -> None:
        stores = [Ragged(path, "segments") for path in paths]
        self._where = {
            image_id: (number, place) for number, s in enumerate(stores) for place, image_id in enumerate(s.ids)
        }
        self._stores, self._kept, room = stores, dict[int, np.ndarray](), KEPT_BYTES
        self.hashes = [store.hash for store in stores]
        for number, store in enumerate(stores):
            room -= int(store.offsets[-1])
            if room >= 0:  # a chunk has hundreds of images: one by one, it would be decoded hundreds of times
                self._kept[number] = store.rows(0, int(store.offsets[-1]))

    def __contains__(self, image_id: str) -> bool:
        return image_id in self._where

    def __call__(self, image_id: str) -> np.ndarray:
        """Segment ids [h, w] uint8 of an image, 0 = no segment.

        Raises:
            StoreError: no store has the image.
        """
        if image_id not in self._where:
            raise StoreError(f"cut: no segments of {image_id!r}; run snakemake again")
        number, place = self._where[image_id]
        store = self._stores[number]
        if number not in self._kept:
            return store[place]
        first, last = (int(row) for row in store.offsets[place : place + 2])
        return self._kept[number][first:last].reshape(tuple(int(side) for side in store.grid[place]))


def crop_segments(segments: np.ndarray, box: Box, flip: bool, side: int) -> np.ndarray:
    """Segment ids of a crop, int64 [side, side]: each pixel has the id of the cell that its centre lies in.

    Args:
        segments: [h, w], ids on a grid over the whole photo.
        box: y0, y1, x0, x1 of the crop in shares of the photo.
        flip: the crop is mirrored left to right. side: of the crop, in pixels.
    """
    top, bottom, left, right = (float(share) for share in box)
    rows, columns = (
        _cells(low, high, side, cells)
        for low, high, cells in ((top, bottom, segments.shape[0]), (left, right, segments.shape[1]))
    )
    return segments[np.ix_(rows, columns[::-1] if flip else columns)].astype(np.int64)


def _cells(low: float, high: float, side: int, cells: int) -> np.ndarray:
    """The cell of each of `side` pixels spread over low..high, in shares of all cells."""
    centres = low + (high - low) * (np.arange(side) + 0.5) / side
    return np.floor(centres * cells).astype(np.int64).clip(0, cells - 1)


def at_grid(segments: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Segment ids [n, side, side] at a coarser grid [n, h, w]: of each cell its first pixel's."""
    import torch

    rows, columns = (
        torch.arange(cells, device=segments.device) * pixels // cells
        for cells, pixels in zip(size, segments.shape[1:], strict=True)
    )
    return segments[:, rows[:, None], columns]

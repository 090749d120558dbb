"""A ragged store without some of its rows: what every fit samples from, so that no nodata is learnt.

What draws rows of many images (numerics.sampling, numerics.blocks, numerics.points) looks at stores with `valid_only`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from maskmill.store.ragged import Ragged


class Part(Ragged):
    """A Ragged of vectors without the rows that are not `kept`: image i is [r, 1, d], and r may be 0.

    A byte of memory a row. Rows are read in runs of whole images. What is left is valid: `invalid` knows nothing more.

    Args:
        kept: bool [rows] of the store.

    Attributes:
        offsets, grid: of what is left.
    """

    def __init__(self, path: str | Path, kind: str | None, kept: np.ndarray) -> None:
        super().__init__(path, kind)
        self._raw, self._kept = self.offsets, kept
        sums = np.concatenate([[0], np.cumsum(kept)])
        self.offsets = sums[self._raw].astype(np.int64)
        self.grid = np.stack([np.diff(self.offsets), np.ones(len(self), np.int64)], 1).astype(np.int32)

    @property
    def valid_rows(self) -> np.ndarray | None:
        """None: every row that is left is valid."""
        return None

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Flat kept rows of whole images, [m, d]."""
        first, last = self._span(start, stop)
        return super().rows(first, last)[self._kept[first:last]]

    def stored(self, start: int, stop: int) -> np.ndarray:
        """The rows of `rows` as they are stored."""
        first, last = self._span(start, stop)
        return super().stored(first, last)[self._kept[first:last]]

    def _span(self, start: int, stop: int) -> tuple[int, int]:
        """The rows of the store that kept rows start:stop of whole images lie between."""
        if stop <= start:
            return 0, 0
        first = int(self._raw[np.searchsorted(self.offsets, start, side="right") - 1])
        return first, int(self._raw[np.searchsorted(self.offsets, stop, side="left")])

    def images(self) -> Iterator[tuple[str, np.ndarray]]:
        """(id, kept vectors [r, 1, d]) of every image, in order; about one chunk is read at a time."""
        for i, (image_id, values) in enumerate(Ragged(self.path, self.kind).images()):
            kept = self._kept[self._raw[i] : self._raw[i + 1]]
            yield image_id, values.reshape(-1, values.shape[2])[kept][:, None]


def valid_only(store: Ragged) -> Ragged:
    """The store itself where all of it is valid, else without the rows that are not."""
    return store if store.valid_rows is None else Part(store.path, store.kind, store.valid_rows)


def all_valid_only(stores: Sequence[Ragged]) -> list[Ragged]:
    """`valid_only` of each."""
    return [valid_only(store) for store in stores]

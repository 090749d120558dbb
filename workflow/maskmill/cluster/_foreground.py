"""Tokens of the foreground only: a store seen through a codebook of background (0) and foreground (1)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from maskmill.store.codebook import Codebook, assign
from maskmill.store.ragged import Ragged


class ForegroundTokens(Ragged):
    """A Ragged of tokens without those whose nearest fine centroid is background: image i is [r, 1, d], r may be 0.

    One pass over the store when it is opened; a byte of memory a token. Rows are read in runs of whole images.

    Attributes:
        offsets, grid: of what is left.
    """

    def __init__(self, path: str | Path, foreground: Codebook) -> None:
        super().__init__(path, "features")
        self._raw, kept = self.offsets, []
        for _, values in Ragged(path).images():  # image by image: a product's bits may depend on its shape
            h, w, d = values.shape
            kept.append(assign(values.reshape(h * w, d), foreground)[0] == 1)
        self._kept = np.concatenate(kept) if kept else np.zeros(0, bool)
        sums = np.concatenate([[0], np.cumsum(self._kept)])
        self.offsets = sums[self._raw].astype(np.int64)
        self.grid = np.stack([np.diff(self.offsets), np.ones(len(self), np.int64)], 1).astype(np.int32)

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Flat kept rows of whole images, [m, d]."""
        if stop <= start:
            return super().rows(0, 0)
        first = int(self._raw[np.searchsorted(self.offsets, start, side="right") - 1])
        last = int(self._raw[np.searchsorted(self.offsets, stop, side="left")])
        return super().rows(first, last)[self._kept[first:last]]

    def images(self) -> Iterator[tuple[str, np.ndarray]]:
        """(id, kept tokens [r, 1, d]) of every image, in order; about one chunk is read at a time."""
        for i, (image_id, values) in enumerate(Ragged(self.path, "features").images()):
            kept = self._kept[self._raw[i] : self._raw[i + 1]]
            yield image_id, values.reshape(-1, values.shape[2])[kept][:, None]

"""Tokens of the foreground only: a store seen through a codebook of background (0) and foreground (1)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from maskmill.store.codebook import Codebook, assign
from maskmill.store.ragged import Ragged
from maskmill.store.valid import Part


class ForegroundTokens(Part):
    """A Ragged of tokens without those whose nearest fine centroid is background, and without those that show no data.

    One pass over the store when it is opened. See `Part` for what is left of an image.
    """

    def __init__(self, path: str | Path, foreground: Codebook) -> None:
        store, kept = Ragged(path, "features"), []
        for _, values in store.images():  # image by image: a product's bits may depend on its shape
            h, w, d = values.shape
            kept.append(assign(values.reshape(h * w, d), foreground)[0] == 1)
        found = np.concatenate(kept) if kept else np.zeros(0, bool)
        if store.valid_rows is not None:
            found &= store.valid_rows
        super().__init__(path, "features", found)

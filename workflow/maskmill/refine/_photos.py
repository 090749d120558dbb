"""The photos that masks are refined with, by image id."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from maskmill.config import Refine
from maskmill.errors import ConfigError, InputError, StoreError


class Photos:
    """Photos of a manifest on any grid.

    Raises:
        ConfigError: there is something to refine but no manifest; `where` is the stage, for the message.
        StoreError: no readable manifest.
    """

    def __init__(self, manifest: str | Path | None, where: str) -> None:
        from maskmill.manifest import read_manifest

        if manifest is None:
            raise ConfigError(f"{where}.refine: needs the photos; give --manifest, or set {where}.refine: none")
        self.path, self._rows = manifest, read_manifest(manifest).by_id

    @classmethod
    def needed(cls, settings: Refine, manifest: str | Path | None, where: str) -> Photos | None:
        """None where nothing is refined."""
        return None if settings.method == "none" else cls(manifest, where)

    def on_grid(self, image_id: str, size: tuple[int, int]) -> np.ndarray:
        """The photo uint8 [H, W, 3] squeezed to `size`.

        Raises:
            StoreError: unknown id. InputError: the file does not decode any more.
        """
        from maskmill.images import decode, resize

        row = self._rows.get(image_id)
        if row is None:
            raise StoreError(f"{self.path}: holds no image {image_id!r}; run snakemake again, the images have changed")
        try:
            return resize(decode(row.path), size)
        except (InputError, OSError) as error:
            raise InputError(f"{row.path}: {error}; restore the file, or run snakemake again") from None

"""The photos that masks are refined with, by image id."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from maskmill.config import Refine
from maskmill.errors import ConfigError


class Photos:
    """Photos of a manifest, or of one shard of it, on any grid.

    Raises:
        ConfigError: there is something to refine but no manifest; `where` is the stage, for the message.
        StoreError: no readable manifest.
    """

    def __init__(self, manifest: str | Path | None, where: str, shard: str | None = None) -> None:
        from maskmill.manifest import read_manifest

        if manifest is None:
            raise ConfigError(f"{where}.refine: needs the photos; give --manifest, or set {where}.refine: none")
        self._manifest = read_manifest(manifest, shard)

    @classmethod
    def needed(
        cls, settings: Refine, manifest: str | Path | None, where: str, shard: str | None = None
    ) -> Photos | None:
        """None where nothing is refined."""
        return None if settings.method == "none" else cls(manifest, where, shard)

    def on_grid(self, image_id: str, size: tuple[int, int]) -> np.ndarray:
        """The photo uint8 [H, W, 3] squeezed to `size`.

        Raises:
            StoreError: unknown id. InputError: the file changed since the inputs were checked.
        """
        from maskmill.images import resize

        return resize(self.photo(image_id), size)

    def photo(self, image_id: str) -> np.ndarray:
        """The photo as it is, uint8 RGB [H, W, 3]; raises as `on_grid`."""
        from maskmill.photos import read_photo

        return read_photo(self._manifest.row(image_id))

"""What a head sees beside the stored tokens of an image: query and key of the cls token, the photo, its depth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from maskmill.adapt._data import CROPS, Crops, TokenImages, crop
from maskmill.backbones.attention import cls_queries
from maskmill.errors import InputError, StoreError
from maskmill.images.decode import resize
from maskmill.images.depth import depth_on_grid, read_depth
from maskmill.images.photos import read_photo
from maskmill.store.hashing import json_hash
from maskmill.store.manifest import read_manifest

SHARES = {"photo": 2, "depth": 16}  # parts of the cache, of which one is for these: a depth is one number a token


class TokensAndMore(TokenImages):
    """Stored tokens, and what `maskmill.adapt.Traits.beside` names.

    Of `cache_mib`, photos and depths take their `SHARES` when the first of them is read, of what is left then; those
    that are read first are held.

    Raises:
        StoreError: no query of a cls token is stored; no readable manifest, or one without depth maps. Else as
            `TokenImages`.
    """

    def __init__(
        self, stores: Sequence[str | Path], manifest: str | Path, beside: Sequence[str], cache_mib: int, who: str
    ) -> None:
        pictures = "photo" in beside
        super().__init__(stores, cache_mib)
        depths = "depth" in beside
        self._rows = read_manifest(manifest).by_id if pictures or depths else {}
        self._whole_room, self._rooms = self._room, dict[str, int]()
        self._held: dict[str, dict[int, np.ndarray]] = {kind: {} for kind in SHARES}
        self._queries: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        if depths:
            digests = [self._rows[name].depth_digest if name in self._rows else None for name in self.ids]
            if None in digests:
                what = f"no depth map of {self.ids[digests.index(None)]!r}; set inputs.depth and run snakemake again"
                raise StoreError(f"{manifest}: holds {what}")
            self.hashes = [*self.hashes, json_hash(digests)]
        if "cls_query" in beside:
            for store in {id(store): store for store in self._place.values()}.values():
                queries, keys = cls_queries(store, who), store.per_image("cls").astype(np.float32)
                self._queries |= {name: (queries[i], keys[i]) for i, name in enumerate(store.ids)}

    def cls(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Query [heads, d_head] and key [heads * d_head] of the cls token of image i, float32."""
        return self._queries[self.ids[i]]

    def far(self, i: int) -> np.ndarray:
        """How far image i is on the grid of its tokens, float32 [h, w] from 0 (nearest) to 1; see `depth_on_grid`.

        Raises:
            InputError: the file changed since the inputs were checked.
        """
        held = self._held["depth"].get(i)
        if held is not None:
            return held
        row = self._rows[self.ids[i]]
        assert row.depth is not None
        values, digest = read_depth(row.depth)
        if digest != row.depth_digest:
            raise InputError(f"{row.depth}: another content than in the manifest; it changed since the inputs were "
                             "checked: restore the file and run snakemake again")  # fmt: skip
        h, w = self[i].shape[:2]
        return self._kept("depth", i, depth_on_grid(values, (h, w)))

    def far_item(self, j: int, kind: Crops) -> np.ndarray:
        """The same of one crop, [h, w, 1]; see `item`."""
        return crop(self.far(j // CROPS[kind])[:, :, None], kind, j % CROPS[kind])

    def photo(self, i: int, size: tuple[int, int]) -> np.ndarray:
        """Photo i squeezed to `size`, uint8 [H, W, 3]; the first ones are held, in the size that is asked for first.

        Raises:
            InputError: it changed since the inputs were checked.
        """
        held = self._held["photo"].get(i)
        if held is not None and held.shape[:2] == size:
            return held
        return self._kept("photo", i, resize(read_photo(self._rows[self.ids[i]]), size))

    def _kept(self, kind: str, i: int, found: np.ndarray) -> np.ndarray:
        """What was found of image i, which is held while there is room."""
        with self._lock:
            if kind not in self._rooms:
                self._rooms[kind] = min(self._whole_room // SHARES[kind], self._room)
                self._room -= self._rooms[kind]
            if self._rooms[kind] >= found.nbytes and i not in self._held[kind]:
                self._rooms[kind] -= found.nbytes
                self._held[kind][i] = found
        return found

    def colours(self, j: int, kind: Crops) -> np.ndarray:
        """Colours uint8 [h, w, 3] of the photo on the grid of the tokens of one crop; see `item`."""
        i = j // CROPS[kind]
        h, w = self[i].shape[:2]
        return crop(self.photo(i, (h, w)), kind, j % CROPS[kind])

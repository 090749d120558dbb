"""What a head learns from: images by position in the sorted ids, their stored tokens, and crops of their grids.

Images are read from their shards as they are needed; what is held is bounded by `cache_mib`. Order and sampling follow
the sorted ids, so shards do not matter.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from maskmill.device import pinned
from maskmill.errors import ConfigError, NumericsError, StoreError
from maskmill.numerics.sampling import batch_rows
from maskmill.store.ragged import Ragged

if TYPE_CHECKING:
    import torch

    from maskmill.adapt._encoder import Encoder
    from maskmill.images.photos import ManifestPhotos

Crops = Literal["none", "five"]
CROPS: dict[str, int] = {"none": 1, "five": 5}  # crops of an image


def crop(tokens: np.ndarray, kind: Crops, which: int) -> np.ndarray:
    """A crop of a grid [h, w, ...]: the whole, or of five the corners (0 to 3) and the centre (4), half a side each."""
    if kind == "none":
        return tokens
    h, w = tokens.shape[:2]
    rows, columns = -(-h // 2), -(-w // 2)
    tops, lefts = (0, 0, h - rows, h - rows, (h - rows) // 2), (0, w - columns, 0, w - columns, (w - columns) // 2)
    return tokens[tops[which] : tops[which] + rows, lefts[which] : lefts[which] + columns]


class Images:
    """Images by position in the sorted list of ids, as arrays; those that are read first are held in memory.

    Attributes:
        ids: sorted. depth: d of a token. hashes: of what they were read from. made_by: parameters of the feature set.
        multiple: sides of the arrays are multiples of it. encoder: the backbone that learns, where photos are seen.
    """

    multiple = 1
    encoder: Encoder | None = None

    def __init__(self, ids: list[str], depth: int, hashes: list[str], made_by: dict[str, Any], cache_mib: int) -> None:
        self.ids, self.depth, self.hashes, self.made_by = ids, depth, hashes, made_by
        self._cache: dict[int, np.ndarray] = {}
        self._room = cache_mib << 20
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, i: int) -> np.ndarray:
        """Image i as [h, w, ...]."""
        if i in self._cache:
            return self._cache[i]
        array = self.read(i)
        with self._lock:  # which images are held does not matter: the order of reading is random
            if self._room >= array.nbytes and i not in self._cache:
                self._room -= array.nbytes
                self._cache[i] = array
        return self._cache.get(i, array)

    def read(self, i: int) -> np.ndarray:
        """Image i from its file."""
        raise NotImplementedError

    def several(self, places: Sequence[int]) -> list[np.ndarray]:
        """Images by position."""
        return [self[i] for i in places]

    def view(self, i: int) -> np.ndarray:
        """What a trained head sees of image i: the same as in training, unless a subclass says otherwise."""
        return self[i]


def shown_ids(store: Ragged) -> list[str]:
    """Ids of the images of a store that show any data."""
    if store.valid_rows is None:
        return store.ids
    return [image_id for image_id in store.ids if (valid := store.valid(image_id)) is None or valid.any()]


class TokenImages(Images):
    """Stored tokens [h, w, d] of the images of several shards, without images that show no data at all.

    Tokens of a part without data hold the vector of the nearest one with data (stage features): grids stay whole, and
    nothing of nodata is learnt.

    Args:
        manifest: its file, for methods that look at colours (`maskmill.adapt.Traits.colours`).

    Raises:
        NumericsError: there is no image, or one has no tokens.
        StoreError: the stores are of different feature sets.
    """

    def __init__(self, stores: Sequence[str | Path], cache_mib: int, manifest: str | Path | None = None) -> None:
        opened = [Ragged(path) for path in stores]
        self._place = {image_id: store for store in opened for image_id in shown_ids(store)}
        if not self._place:
            raise NumericsError("adapt: there is no image to learn from; check images and inputs/rejected.csv")
        if len(depths := {store.depth for store in opened if store.ids}) != 1:
            raise StoreError(f"{stores[0]}: shards hold vectors of lengths {sorted(map(str, depths))}; run snakemake "
                             "again")  # fmt: skip
        made_by = dict(opened[0].provenance.get("params", {}))
        hashes = [store.hash for store in opened]
        super().__init__(sorted(self._place), int(depths.pop() or 1), hashes, made_by, cache_mib)
        self._manifest = manifest
        self._photos: ManifestPhotos | None = None
        self._colours: dict[int, np.ndarray] = {}

    def colours(self, j: int, kind: Crops) -> np.ndarray:
        """Colours uint8 [h, w, 3] of the photo on the grid of one crop's tokens; they are held, as they are small.

        Raises:
            ConfigError: no manifest was given. InputError: a photo changed since the inputs were checked.
        """
        i = j // CROPS[kind]
        if i not in self._colours:
            from maskmill.images.photos import ManifestPhotos

            if self._manifest is None:
                raise ConfigError("adapt: this method looks at the photos' colours; give --manifest, or set "
                                  "adapt.colour: 0")  # fmt: skip
            if self._photos is None:
                self._photos = ManifestPhotos(self._manifest, "adapt")
            self._colours[i] = self._photos.on_grid(self.ids[i], self[i].shape[:2])
        return crop(self._colours[i], kind, j % CROPS[kind])

    def read(self, i: int) -> np.ndarray:
        """Tokens [h, w, d] of image i as stored."""
        image_id = self.ids[i]
        return np.asarray(self._place[image_id][image_id])

    def items(self, kind: Crops) -> int:
        """Number of crops of all images; item j is crop j % CROPS[kind] of image j // CROPS[kind]."""
        return len(self.ids) * CROPS[kind]

    def item(self, j: int, kind: Crops) -> np.ndarray:
        """Tokens [h, w, d] of one crop."""
        return crop(self[j // CROPS[kind]], kind, j % CROPS[kind])


def order(step: int, size: int, count: int, seed: int) -> list[int]:
    """The items of a step's batch: every item once an epoch, in an order of its own; a function of the step alone."""
    return [int(i) for i in batch_rows(step, size, count, seed, "epoch")]


def stack(grids: Sequence[np.ndarray], side: tuple[int, int] | None = None) -> np.ndarray:
    """Grids [h, w, d] of any size as one batch [n, d, H, W]; other sizes are laid bilinearly on `side`.

    Without `side` it is that of the first grid. Grids of one size keep their type where it is float16 or uint8, so that
    less is sent to a device (`on_device`); else the batch is float32.
    """
    from maskmill.images.interpolate import resize_maps

    size = side or (grids[0].shape[0], grids[0].shape[1])
    kept = all(grid.shape[:2] == size and grid.dtype == grids[0].dtype in (np.float16, np.uint8) for grid in grids)
    out = np.empty((len(grids), grids[0].shape[2], *size), grids[0].dtype if kept else np.float32)
    for i, grid in enumerate(grids):
        maps = grid.transpose(2, 0, 1)
        out[i] = maps if maps.shape[1:] == size else resize_maps(maps.astype(np.float32), size)
    return out


def on_device(part: np.ndarray | torch.Tensor, device: torch.device) -> torch.Tensor:
    """An array, or one that is `pinned` already, on the device; float16 and uint8 become float32 there."""
    import torch

    tensor = pinned(part, device) if isinstance(part, np.ndarray) else part
    tensor = tensor.to(device, non_blocking=True)
    return tensor.float() if tensor.dtype in (torch.float16, torch.uint8) else tensor

"""The photos that have instances, and crops of them: what students of instances learn from."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from maskmill.errors import ConfigError, NumericsError, StoreError
from maskmill.images.crops import cut_picture, draw_box
from maskmill.images.instances import VOID, Instances, InstanceStore
from maskmill.images.photos import read_photo
from maskmill.rounds._augment import CropSettings, recolour
from maskmill.rounds._masks import Masks
from maskmill.rounds._pyramid import STRIDE, Shape
from maskmill.rounds._training import Sources
from maskmill.store.manifest import Row, read_manifest

LEAST = 0.5  # share of a mask cell that an object covers where the cell is the object's
NEITHER = -1  # class of a location that is neither object nor background


class PhotoSettings(CropSettings, Protocol):
    """What a method's `Params` say of its crops, and how much of the instances is held in memory (MiB)."""

    @property
    def cache_mib(self) -> int: ...


class InstancePhotos:
    """The photos that have instances, by position in the sorted ids.

    Attributes:
        rows: of the manifest. weights: file of the encoder's weights. counts: instances of each class, [classes];
            place 0 counts the photos, which all have background.
    """

    def __init__(self, sources: Sources, masks: Masks, params: PhotoSettings, classes: int, student: str) -> None:
        if sources.manifest is None or sources.weights is None:
            raise ConfigError(f"rounds.student: {student} sees photos; give --manifest and --weights")
        if not sources.instances:
            raise ConfigError(f"rounds.student: {student} learns from instances; give --instances")
        self.weights, self.counts = sources.weights, np.zeros(classes, np.int64)
        self._stores: dict[str, InstanceStore] = {}
        self._held: dict[str, Instances] = {}
        room, wanted = params.cache_mib << 20, set(masks.ids)
        for store in (InstanceStore(path) for path in sources.instances):
            for image_id, found in store.images():
                known = found.labels[found.labels != VOID]
                if image_id not in wanted or not len(known):
                    continue
                if known.max() >= classes:
                    raise StoreError(f"{store.path}: holds class {known.max()} of {classes - 1} clusters; run it again")
                self.counts += np.bincount(known, minlength=classes)
                self._stores[image_id] = store
                room -= found.masks.nbytes
                if room >= 0:
                    self._held[image_id] = found
        if not self._stores:
            folder = Path(sources.instances[0]).parent
            raise NumericsError(
                f"{folder}: no photo has an instance, there is nothing to learn from; raise paint.keep_closest, "
                "loosen the cut (cut.tau), or lower rounds.keep_score"
            )
        manifest = read_manifest(sources.manifest)
        self.rows: list[Row] = [manifest.row(image_id) for image_id in sorted(self._stores)]
        self.counts[0] = len(self.rows)
        self._row = {row.id: row for row in (manifest.row(image_id) for image_id in masks.ids)}

    def view(self, image_id: str) -> np.ndarray:
        """The photo, uint8 RGB [H, W, 3]."""
        return read_photo(self._row[image_id])

    def instances(self, image_id: str) -> Instances:
        """What the photo's instances are taken for."""
        return self._held[image_id] if image_id in self._held else self._stores[image_id][image_id]


def side_of(params: CropSettings, shape: Shape) -> int:
    """Pixels a side of a crop: the nearest whole number of patches."""
    return max(1, round(params.crop / shape.multiple)) * shape.multiple


def cut_crop(
    photos: InstancePhotos, image: int, side: int, params: CropSettings, generator: np.random.Generator
) -> tuple[np.ndarray, Instances]:
    """Pixels uint8 [side, side, 3] of a random box of a photo, flipped by chance, and its instances at the pixels."""
    row = photos.rows[image]
    photo, found = read_photo(row), photos.instances(row.id)
    box = draw_box(photo.shape[0], photo.shape[1], params.scale, generator)
    picture, masks = cut_picture(photo, box, side), cut_masks(found.masks, box, side)
    if generator.random() < 0.5:
        picture, masks = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT), masks[:, :, ::-1]
    pixels = np.array(recolour(picture, params, generator))
    seen = masks.any(axis=(1, 2))
    return pixels, Instances(masks[seen], found.labels[seen], found.scores[seen])


def cut_masks(masks: np.ndarray, box: tuple[float, float, float, float], side: int) -> np.ndarray:
    """Masks [n, h, w] at the centres of side x side parts of the box."""
    y0, y1, x0, x1 = box
    at = (np.arange(side) + 0.5) / side
    rows = ((y0 + at * (y1 - y0)) * masks.shape[1]).astype(np.int64).clip(0, masks.shape[1] - 1)
    columns = ((x0 + at * (x1 - x0)) * masks.shape[2]).astype(np.int64).clip(0, masks.shape[2] - 1)
    return masks[:, rows[:, None], columns[None]]


def to_cells(masks: np.ndarray) -> np.ndarray:
    """Masks [n, S, S] of pixels -> [n, S / 4, S / 4]: cells that they cover at least half of."""
    n, side, _ = masks.shape
    cells = side // STRIDE
    return masks.reshape(n, cells, STRIDE, cells, STRIDE).mean(axis=(2, 4)) >= LEAST

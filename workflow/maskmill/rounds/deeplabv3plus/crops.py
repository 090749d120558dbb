"""What the network sees in training: crops of photos with their masks."""

from __future__ import annotations

import numpy as np

from maskmill.errors import ConfigError
from maskmill.images.photos import read_photo
from maskmill.numerics.sampling import rng
from maskmill.rounds._augment import augment
from maskmill.rounds._masks import Masks
from maskmill.rounds._training import Sources
from maskmill.rounds.deeplabv3plus.network import LOW_STRIDE
from maskmill.rounds.deeplabv3plus.params import Params
from maskmill.store.manifest import Row, read_manifest

CropBatch = tuple[np.ndarray, np.ndarray]  # pixels uint8 [n, S, S, 3], labels [n, S / 4, S / 4]


class LabelledPhotos:
    """The photos behind the masks, by position in the sorted ids.

    Attributes:
        rows: of the manifest, as `masks.ids`. weights: file of the encoder's weights.
    """

    def __init__(self, sources: Sources, masks: Masks, params: Params) -> None:
        if sources.manifest is None or sources.weights is None:
            raise ConfigError("rounds.student: deeplabv3plus sees photos; give --manifest and --weights")
        masks.hold(params.cache_mib)
        manifest = read_manifest(sources.manifest)
        self.masks, self.weights = masks, sources.weights
        self.rows: list[Row] = [manifest.row(image_id) for image_id in masks.ids]
        self._row = {row.id: row for row in self.rows}

    def view(self, image_id: str) -> np.ndarray:
        """The photo, uint8 RGB [H, W, 3]."""
        return read_photo(self._row[image_id])


def read_crops(
    draws: list[tuple[int, int, int]], photos: LabelledPhotos, params: Params, seed: int, micro: int
) -> list[CropBatch]:
    """Decode and augment the photos of a step, in micro-batches; each draw by the generator of (step, place)."""
    found = []
    for step, place, image in draws:
        row = photos.rows[image]
        generator = rng(seed, "augment", str(step), str(place))
        found.append(augment(read_photo(row), photos.masks[row.id], params.crop // LOW_STRIDE, params, generator))
    parts = [found[a : a + micro] for a in range(0, len(found), micro)]
    return [(np.stack([x for x, _ in part]), np.stack([y for _, y in part])) for part in parts]

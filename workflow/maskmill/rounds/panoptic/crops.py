"""What the panoptic network sees in training: the crops of `instance`, and a semantic map of each.

Stuff travels with a crop's instances, as void that says which class it is: it is cut, flipped and carved with them, and
neither pasted nor spared by what is pasted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from maskmill.errors import StoreError
from maskmill.images.instances import VOID, Instances
from maskmill.images.masks import ignore_value, to_size
from maskmill.numerics.sampling import rng
from maskmill.rounds._masks import Masks
from maskmill.rounds._pyramid import STRIDE, Shape
from maskmill.rounds._training import Sources
from maskmill.rounds.instance.crops import NEITHER, Crop, InstancePhotos, drawn, finished
from maskmill.rounds.panoptic.params import Params

MARK = 1.0  # score of real void; stuff of class c, which is void for instances, has MARK + c
THING = 0  # semantic class of all things


@dataclass(frozen=True)
class PanopticCrop(Crop):
    """One training example.

    Attributes:
        semantic: int64 [c, c], THING, class of stuff 1..s, or NEITHER where the loss does not look.
    """

    semantic: np.ndarray


class PanopticPhotos(InstancePhotos):
    """The photos that have instances, with the stuff between them.

    Attributes:
        things, stuff: number of classes of each.
    """

    def __init__(self, sources: Sources, masks: Masks, params: Params) -> None:
        if masks.things is None:
            raise StoreError("rounds.student: panoptic: the masks have no classes of stuff; set paint.stuff, run again")
        super().__init__(sources, masks, params, masks.things + 1, "panoptic")
        self.things, self.stuff = masks.things, masks.classes - 1 - masks.things
        self._masks = masks

    def instances(self, image_id: str) -> Instances:
        """What the photo's instances are taken for, and its stuff as marked void."""
        found, mask = super().instances(image_id), self._masks[image_id]
        present = [int(value) for value in np.unique(mask) if self.things < value != ignore_value(mask.dtype)]
        fine = to_size(mask, found.size)
        masks = np.array([fine == value for value in present], bool).reshape(len(present), *found.size)
        marks = np.array([MARK + value - self.things for value in present], np.float32)
        return found + Instances(masks, np.full(len(present), VOID, np.int64), marks)


def read_crops(
    draws: list[tuple[int, int, int]], photos: PanopticPhotos, params: Params, seed: int, shape: Shape, micro: int
) -> list[list[PanopticCrop]]:
    """Decode, augment and paste the photos of a step, in micro-batches; each draw by the generator of (step, place)."""
    found = [read_crop(photos, image, params, shape, rng(seed, "augment", str(s), str(p))) for s, p, image in draws]
    return [found[a : a + micro] for a in range(0, len(found), micro)]


def read_crop(
    photos: PanopticPhotos, image: int, params: Params, shape: Shape, generator: np.random.Generator
) -> PanopticCrop:
    """One crop, as that of `instance`, with its semantic map."""
    pixels, found = drawn(photos, image, params, shape, generator)
    stuff = (found.labels == VOID) & (found.scores > MARK)
    crop = finished(pixels, found.take(~stuff), shape)
    return PanopticCrop(crop.pixels, crop.masks, crop.void, crop.target, crop.owner, semantic_of(found, stuff))


def semantic_of(found: Instances, stuff: np.ndarray) -> np.ndarray:
    """Semantic map [S / 4, S / 4] of instances at S x S pixels, of which `stuff` [n] is marked void.

    A cell is what the pixel at its centre is; where an instance lies, it is a thing.
    """
    middle = slice(STRIDE // 2, None, STRIDE)
    masks = found.masks[:, middle, middle]
    semantic = np.full(masks.shape[1:], NEITHER, np.int64)
    for i in np.flatnonzero(stuff):
        semantic[masks[i]] = round(float(found.scores[i] - MARK))
    semantic[masks[found.labels != VOID].any(axis=0)] = THING
    return semantic

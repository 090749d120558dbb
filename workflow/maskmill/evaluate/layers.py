"""Predicted instances against labelled objects: masks that may overlap, by the same rules as the segments of a cut."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from maskmill.errors import StoreError
from maskmill.evaluate.objects import Labelled
from maskmill.evaluate.truth import Truth
from maskmill.images.instances import mask_iou


@dataclass(frozen=True)
class Layers(Labelled):
    """Objects and instances of one image, without void; instances ranked, best first: score, area, box, shape.

    Attributes:
        objects: int32 [H, W], 0 or 1..n. masks: bool [m, H, W], none empty. scores: float64 [m], not increasing.
        void: bool [H, W].
    """

    masks: np.ndarray
    scores: np.ndarray
    void: np.ndarray

    @classmethod
    def of(cls, truth: Truth, masks: np.ndarray, scores: np.ndarray, image_id: str) -> Layers:
        """Layers of a truth [H, W] and masks bool [m, H, W] with scores [m].

        Raises:
            StoreError: a score is no number.
        """
        scores = np.asarray(scores, np.float64)
        if not np.isfinite(scores).all():
            raise StoreError(f"{image_id}: an instance's score is no number; delete the store, run again")
        seen = masks & ~truth.void
        there = seen.any(axis=(1, 2))
        seen, scores = seen[there], scores[there]
        areas, extents = seen.sum(axis=(1, 2)), layer_boxes(seen)
        keys = [(-s, -int(a), *box) for s, a, box in zip(scores.tolist(), areas, extents.tolist(), strict=True)]
        order = sorted(range(len(keys)), key=keys.__getitem__)
        if len(set(keys)) < len(keys):
            order = sorted(order, key=lambda i: (keys[i], np.flatnonzero(seen[i]).tolist()))
        return cls(truth.objects, seen[order], scores[order], truth.void)

    @cached_property
    def mask_iou(self) -> np.ndarray:
        """IoU [n, m] float64 of every object with every instance."""
        return mask_iou(self._object_masks, self.masks)

    @cached_property
    def _object_masks(self) -> np.ndarray:
        count = len(self.object_boxes)
        return (self.objects[None] == np.arange(1, count + 1)[:, None, None]) & ~self.void

    @cached_property
    def pairs(self) -> np.ndarray:
        """Pixels of every object by instance, none first: int64 [n, m + 1]; where they overlap the best one has it."""
        owner = np.where(self.masks.any(axis=0), self.masks.argmax(axis=0) + 1, 0) if len(self.masks) else 0
        count, width = len(self.object_boxes), len(self.masks) + 1
        flat = (self.objects.astype(np.int64) * width + owner)[~self.void]
        return np.bincount(flat, minlength=(count + 1) * width).reshape(count + 1, width)[1:]

    @cached_property
    def segment_boxes(self) -> np.ndarray:
        """[m, 4] int64 of the instances."""
        return layer_boxes(self.masks)

    def coded_segments(self) -> list[dict[str, Any]]:
        """The same of every instance, with its score."""
        from pycocotools import mask as codec

        found = []
        for mask, (y0, x0, y1, x1), score in zip(self.masks, self.segment_boxes.tolist(), self.scores, strict=True):
            rle = codec.encode(np.asfortranarray(mask, np.uint8))
            box = [float(x0), float(y0), float(x1 - x0), float(y1 - y0)]
            body = {"segmentation": rle, "bbox": box, "area": float(codec.area(rle))}
            found.append(body | {"score": float(score)})
        return found


def layer_boxes(masks: np.ndarray) -> np.ndarray:
    """Box [m, 4] int64 (y0, x0, y1, x1, half open) of each of masks [m, H, W], none empty."""
    if not len(masks):
        return np.zeros((0, 4), np.int64)
    low, high = [], []
    for axis in (2, 1):  # rows, then columns
        line = np.asarray(masks.any(axis=axis))
        low.append(line.argmax(axis=1))
        high.append(line.shape[1] - line[:, ::-1].argmax(axis=1))
    return np.stack([*low, *high], axis=1).astype(np.int64)

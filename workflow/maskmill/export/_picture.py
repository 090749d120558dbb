"""One image as the writers of formats see it: its mask at the size of the photo, and the segments of it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image

from maskmill.images.instances import VOID, Instances
from maskmill.images.masks import ignore_value
from maskmill.store.manifest import Row


@dataclass(frozen=True)
class Segment:
    """A part of an image that belongs to one mask value.

    Attributes:
        value: 1..k. top, left: where its box begins. mask: bool [h, w], its pixels in the box. score: of an instance.
    """

    value: int
    top: int
    left: int
    mask: np.ndarray
    score: float | None = None


@dataclass(frozen=True)
class Picture:
    """One image.

    Attributes:
        row: of the manifest. mask: uint8 or uint16 [H, W] at the photo's size: 0 background, 1..k, the largest ignore.
        found: instances at the photo's size, of a last round that predicts them. palette: of the indexed PNG.
        things: see `ExportImages`.
    """

    row: Row
    mask: np.ndarray
    found: Instances | None
    palette: bytes
    things: int | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return int(self.mask.shape[0]), int(self.mask.shape[1])

    def is_part(self, value: int) -> bool:
        """Whether a value of the mask is a segment by itself: any class, or beside instances a class of stuff."""
        ignore = ignore_value(self.mask.dtype)
        least = 0 if self.found is None else ignore if self.things is None else self.things
        return least < value < ignore

    @cached_property
    def segments(self) -> list[Segment]:
        """What tools for annotation show: parts of the mask by rising value (see `is_part`), then every instance."""
        segments = [Segment(value, *box) for value, box in _boxes(self.mask) if self.is_part(value)]
        if self.found is None:
            return segments
        for mask, label, score in zip(self.found.masks, self.found.labels, self.found.scores, strict=True):
            box = dict(_boxes(mask.astype(np.uint8))).get(1)
            if box is not None and label != VOID:
                segments.append(Segment(int(label), *box, score=float(score)))
        return segments

    @cached_property
    def png(self) -> bytes:
        """The mask as an indexed PNG, or as 16-bit grey where the clusters exceed a palette."""
        image = Image.fromarray(self.mask)
        if self.mask.dtype == np.uint8:
            image.putpalette(self.palette)
        body = io.BytesIO()
        image.save(body, format="PNG")
        return body.getvalue()


def _boxes(mask: np.ndarray) -> Iterator[tuple[int, tuple[int, int, np.ndarray]]]:
    """(value, (top, left, pixels bool [h, w] of the value in its box)) of every value, ascending."""
    values, boxes = found_boxes(mask)
    for value, box in zip(values.tolist(), boxes, strict=True):
        yield value, (box[0].start, box[1].start, mask[box] == value)


def found_boxes(mask: np.ndarray) -> tuple[np.ndarray, list[tuple[slice, slice]]]:
    """Values [n] of an array of integers >= 0, ascending, and the box around each."""
    from scipy.ndimage import find_objects

    there = np.flatnonzero(np.bincount(mask.ravel()))
    number = np.zeros(int(there[-1]) + 1, np.int32)
    number[there] = np.arange(1, len(there) + 1)
    return there, find_objects(number[mask])

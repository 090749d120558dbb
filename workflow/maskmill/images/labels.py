"""A label file read and checked: one class number a pixel, at the size of its image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from maskmill.errors import InputError
from maskmill.images.decode import MAX_PIXELS, label_and_digest

IDS = 1 << 16  # label ids are 0..65535


@dataclass(frozen=True)
class LabelFacts:
    """What a label file has: a digest of its bytes, and {label id: pixels}, ascending."""

    digest: str
    pixels: dict[int, int]


def checked_label(label: str, image: str, height: int, width: int) -> tuple[np.ndarray, str]:
    """Label ids int32 [height, width] of the file `label`, and a digest of its bytes.

    Raises:
        InputError: unreadable, in colour, not of the size of `image`, or ids outside 0..65535; names the file.
    """
    ids, digest = label_and_digest(label, max(MAX_PIXELS, height * width))
    if ids.shape != (height, width):
        raise InputError(
            f"{label}: label of {ids.shape[1]} x {ids.shape[0]} pixels for {image} of {width} x {height}; "
            "a label is as large as its image is displayed"
        )
    if ids.min() < 0 or ids.max() >= IDS:
        raise InputError(f"{label}: label ids {ids.min()}..{ids.max()}; ids must be in 0..{IDS - 1}")
    return ids, digest


def label_facts(label: str, image: str, height: int, width: int) -> LabelFacts | str:
    """Facts of a label file, or why it cannot be used: exceptions do not leave worker processes whole."""
    try:
        ids, digest = checked_label(label, image, height, width)
    except InputError as error:
        return str(error)
    counts = np.bincount(ids.ravel())
    return LabelFacts(digest, {int(i): int(counts[i]) for i in np.flatnonzero(counts)})

"""Which label file belongs to which image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from maskmill.errors import InputError
from maskmill.images.decode import MAX_PIXELS, label_size
from maskmill.images.stems import match_stems
from maskmill.inputs._sources import Candidate


def match_labels(candidates: Sequence[Candidate], labels: str | None) -> dict[str, str]:
    """Image id -> label file: the table's own column, or a folder with the same relative paths but for the suffix.

    Where the relative path has no label, a bare stem that only one image and only one label have will do.

    Raises:
        InputError: no such folder; no label fits any image; two labels fit one; a label that is itself an image.
    """
    found = {c.id: c.label for c in candidates if c.label}
    if labels:
        found = match_stems({c.id: c.stem for c in candidates}, Path(labels), "labels") | found
    images = {c.path for c in candidates}
    for image_id, label in found.items():
        if label in images:
            raise InputError(
                f"{label}: the label of {image_id!r} is itself one of the images; keep labels in a folder apart"
            )
    return found


def check_label_size(image: str, label: str, height: int, width: int) -> None:
    """A label is readable, has one class number a pixel, and is as large as its image; else an InputError."""
    size = label_size(label, max(MAX_PIXELS, height * width))
    if size != (height, width):
        raise InputError(
            f"{label}: label of {size[1]}x{size[0]} pixels for {image} of {width}x{height}; "
            "a label is as large as its image is displayed"
        )

"""Which label file belongs to which image."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from maskmill.errors import InputError
from maskmill.images import label_size
from maskmill.inputs._listing import walk
from maskmill.inputs._sources import Candidate

LABEL_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".gif")


def match_labels(candidates: Sequence[Candidate], labels: str | None) -> dict[str, str]:
    """Image id -> label file: the table's own column, or a folder with the same relative paths but for the suffix.

    Where the relative path has no label, a bare stem that only one image and only one label have will do.

    Raises:
        InputError: no such folder; no label fits any image; two labels fit one; a label that is itself an image.
    """
    found = {c.id: c.label for c in candidates if c.label}
    if labels:
        found = _from_folder(candidates, Path(labels)) | found
    images = {c.path for c in candidates}
    for image_id, label in found.items():
        if label in images:
            raise InputError(
                f"{label}: the label of {image_id!r} is itself one of the images; keep labels in a folder apart"
            )
    return found


def _from_folder(candidates: Sequence[Candidate], folder: Path) -> dict[str, str]:
    if not folder.is_dir():
        raise InputError(f"labels: {str(folder)!r} is not a folder; give a folder of label images named as the images")
    try:
        files = [name for name, _ in walk(folder) if name.lower().endswith(LABEL_SUFFIXES)]
    except OSError as error:
        raise InputError(f"labels: {error.filename!r} cannot be listed ({error.strerror}); mend its rights") from None
    stems = [str(PurePosixPath(name).with_suffix("")) for name in files]
    by_path = dict(zip(stems, files, strict=True))
    times = Counter(stems)
    bare = [PurePosixPath(stem).name for stem in stems]
    bare_times, image_times = Counter(bare), Counter(PurePosixPath(c.stem).name for c in candidates)
    by_bare = dict(zip(bare, files, strict=True))
    found = {}
    for candidate in candidates:
        name, short = by_path.get(candidate.stem), PurePosixPath(candidate.stem).name
        if times[candidate.stem] > 1:
            raise InputError(f"labels: {times[candidate.stem]} files of {str(folder)!r} fit {candidate.id!r}; keep one")
        if name is None and bare_times[short] == 1 and image_times[short] == 1:
            name = by_bare[short]
        if name is not None:
            found[candidate.id] = os.path.abspath(folder / name)
    if not found:
        example = f", such as {files[0]!r} for {candidates[0].stem!r}" if files else ""
        raise InputError(
            f"labels: none of the {len(files)} label files ({', '.join(LABEL_SUFFIXES)}) in {str(folder)!r} has the "
            f"name of an image{example}"
        )
    return found


def check_label_size(image: str, label: str, height: int, width: int) -> None:
    """A label is readable, has one class number a pixel, and is as large as its image; else an InputError."""
    size = label_size(label)
    if size != (height, width):
        raise InputError(
            f"{label}: label of {size[1]}x{size[0]} pixels for {image} of {width}x{height}; "
            "a label is as large as its image is displayed"
        )

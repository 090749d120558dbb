"""Which label file belongs to which image."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from maskmill.errors import InputError
from maskmill.images.stems import match_stems
from maskmill.images.tables import is_table
from maskmill.inputs._sources import Candidate, labels_of_table
from maskmill.store.artefact import write_json
from maskmill.store.provenance import Provenance


def match_labels(candidates: Sequence[Candidate], labels: str | None) -> dict[str, str]:
    """Image id -> label file.

    In this order: the table's own column; a table of labels, by id or path; a folder with the same relative paths but
    for the suffix. Where the relative path has no label in a folder, a bare stem that only one image and only one
    label have will do.

    Raises:
        InputError: no such folder; no label fits any image; two labels fit one; a label that is itself an image.
    """
    found = {c.id: c.label for c in candidates if c.label}
    if labels and is_table(labels):
        found = labels_of_table(Path(labels), candidates) | found
    elif labels and not Path(labels).is_dir():
        raise InputError(
            f"labels: {labels!r} is neither a folder nor a table; give a folder of label images named as the images, "
            "or a table (.csv, .tsv, .parquet) with the columns label, and id or path"
        )
    elif labels:
        found = match_stems({c.id: c.stem for c in candidates}, Path(labels), "labels") | found
    images = {c.path for c in candidates}
    for image_id, label in found.items():
        if label in images:
            raise InputError(
                f"{label}: the label of {image_id!r} is itself one of the images; keep labels in a folder apart"
            )
    return found


def write_classes(out: Path, digests: Sequence[str], pixels: Sequence[str], params: Mapping[str, Any]) -> None:
    """Write how many labels there are, and how many pixels of all of them have which id; `pixels`: see `packed`."""
    total = Counter[int]()
    for each in pixels:
        total.update(unpacked(each))
    body = {"labels": len(digests), "pixels": {str(i): total[i] for i in sorted(total)}}
    write_json(out, body, Provenance.of("inputs", params, sorted(digests)))


def packed(pixels: Mapping[int, int]) -> str:
    """{label id: pixels} as a cell of a table."""
    return json.dumps(list(pixels.items()), separators=(",", ":"))


def unpacked(text: str) -> dict[int, int]:
    """What `packed` made."""
    return dict(json.loads(text))

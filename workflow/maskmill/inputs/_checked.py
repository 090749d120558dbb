"""A part of the candidates, checked: a table with the pictures of every file, or the reason why it is rejected."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from maskmill.errors import InputError
from maskmill.images.labels import LabelFacts, label_facts
from maskmill.images.rendering import Rendering
from maskmill.inputs._check import Part, check_all, in_processes
from maskmill.inputs._labels import packed
from maskmill.inputs._sources import Candidate
from maskmill.progress import track
from maskmill.recipe.inputs import Inputs

# Names are bytes until the files are checked: one that is no UTF-8 is rejected, and listed as such.
SCHEMA = pa.schema([
    ("source", pa.large_binary()), ("path", pa.large_binary()), ("stem", pa.large_binary()),
    ("given", pa.large_binary()), ("reason", pa.large_binary()), ("name", pa.large_string()),
    ("width", pa.int64()), ("height", pa.int64()), ("bytes", pa.int64()), ("digest", pa.large_string()),
    ("crc32c", pa.int64()), ("view", pa.large_string()),
    ("label", pa.large_string()), ("label_digest", pa.large_string()), ("label_pixels", pa.large_string()),
])  # fmt: skip
LabelTask = tuple[str, str, int, int, str | None]  # label file, image file, height and width of the picture, its view


def checked(
    chosen: Sequence[Candidate],
    settings: Inputs,
    rendering: Rendering,
    threads: int,
    labels: Mapping[str, str] | None = None,
) -> pa.Table:
    """`SCHEMA` [pictures and rejected files], in the order of the candidates, which all have a row.

    Args:
        rendering: how the files become pictures. labels: id of a candidate -> its label, to be read now; others are
            left to who gathers the parts.

    Raises:
        InputError: a label cannot be used.
    """
    found = check_all([c.path for c in chosen], settings, rendering, threads)
    rows: list[dict[str, Any]] = []
    for candidate, each in zip(chosen, track(found, len(chosen), "inputs: checked"), strict=True):
        head = {
            "source": os.fsencode(candidate.id),
            "path": os.fsencode(candidate.path),
            "stem": os.fsencode(candidate.stem),
            "given": None if candidate.label is None else os.fsencode(candidate.label),
        }
        if isinstance(each, str):
            rows.append(head | {"reason": os.fsencode(each)})
            continue
        rows += [head | _picture(part, (labels or {}).get(candidate.id)) for part in each]
    _add_labels(rows, threads)
    return pa.Table.from_pylist(rows, SCHEMA)


def _picture(part: Part, label: str | None) -> dict[str, Any]:
    return {
        "name": part.name, "width": part.width, "height": part.height, "bytes": part.bytes, "digest": part.digest,
        "crc32c": part.crc32c, "view": part.view, "label": label,
    }  # fmt: skip


def _add_labels(rows: Sequence[dict[str, Any]], threads: int) -> None:
    """The facts of the labels, in the rows that have one."""
    labelled = [row for row in rows if row.get("label") is not None]
    tasks = [(row["label"], os.fsdecode(row["path"]), row["height"], row["width"], row["view"]) for row in labelled]
    for row, facts in zip(labelled, read_labels(tasks, threads), strict=True):
        row["label_digest"], row["label_pixels"] = facts.digest, packed(facts.pixels)


def read_labels(tasks: Sequence[LabelTask], threads: int) -> list[LabelFacts]:
    """The facts of labels, each decoded once; the first that cannot be used is an InputError."""
    facts: list[LabelFacts] = []
    for each in track(in_processes(_facts, list(tasks), threads), len(tasks), "inputs: labels"):
        if isinstance(each, str):
            raise InputError(each)
        facts.append(each)
    return facts


def _facts(task: LabelTask) -> LabelFacts | str:
    return label_facts(*task)

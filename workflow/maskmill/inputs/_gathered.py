"""The parts of the candidates, gathered: the manifest and its shards, the rejected files, what the labels hold."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from maskmill.errors import InputError
from maskmill.inputs._checked import LabelTask, read_labels
from maskmill.inputs._depth import COLUMNS, with_depth
from maskmill.inputs._labels import match_labels, packed
from maskmill.inputs._shards import shard_names
from maskmill.inputs._sources import Candidate

Rejected = tuple[str, str, str]  # id, path, reason
_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("path", pa.string()),
        ("width", pa.int64()),
        ("height", pa.int64()),
        ("bytes", pa.int64()),
        ("digest", pa.string()),
        ("shard", pa.string()),
        ("label", pa.string()),
        ("label_digest", pa.string()),
        ("crc32c", pa.int64()),
        ("parent", pa.string()),
        ("view", pa.string()),
    ]
)
_ROWS = 1 << 20  # that become text of the manifest at once: a column of text holds 2 GB at most


@dataclass(frozen=True)
class Gathered:
    """The manifest as a table, its shards in order, and how many files have a label."""

    table: pa.Table
    shards: Sequence[str]
    labels: int


def rejected_of(table: pa.Table) -> list[Rejected]:
    """The rejected files of `maskmill.inputs._checked.SCHEMA`, in the order of the candidates."""
    found = table.filter(pc.is_valid(table["reason"])).select(["source", "path", "reason"])
    columns = (map(os.fsdecode, column.to_pylist()) for column in found.columns)
    return list(zip(*columns, strict=True))


def gathered(
    table: pa.Table, labels: str | None, shard_size: int, threads: int, depth: str | None = None
) -> tuple[Gathered, pa.Table]:
    """The manifest of all files that were not rejected, and the facts of their labels (label_digest, label_pixels).

    Labels that no part has read are read here, and the depth maps of a folder.

    Raises:
        InputError: labels or depth maps that do not fit, or that cannot be used.
    """
    good = table.filter(pc.is_null(table["reason"])).drop_columns(["reason"])
    good, labelled = _with_labels(good, labels, threads)
    schema = _SCHEMA
    if depth is not None:
        good = with_depth(good, depth, threads)
        for name in COLUMNS:
            schema = schema.append(pa.field(name, pa.string()))
    names, sources = good["name"], good["source"].cast(pa.large_string())
    parts = pc.not_equal(names, "")
    ids = pc.binary_join_element_wise(sources, names, pa.scalar("", pa.large_string()))
    good = good.append_column("id", ids).append_column("parent", pc.if_else(parts, sources, None))
    if pc.any(parts).as_py():
        good = good.take(pc.sort_indices(good["id"]))
        _refuse_twins(good)
    shards = shard_names(good["id"].to_pylist(), good["digest"].to_pylist(), shard_size)
    good = good.append_column("shard", pa.array(shards, pa.large_string()))
    rows = good.select(schema.names)
    blocks = [rows.slice(start, _ROWS).cast(schema).combine_chunks() for start in range(0, len(rows), _ROWS)]
    made = pa.concat_tables(blocks)
    if made["view"].null_count == len(made):
        made = made.drop_columns(["parent", "view"])
    facts = good.select(["label_digest", "label_pixels"]).filter(pc.is_valid(good["label"]))
    return Gathered(made, list(dict.fromkeys(shards)), labelled), facts


def _refuse_twins(good: pa.Table) -> None:
    """A window or page whose id is that of another picture, in a table that is sorted by id, is an InputError."""
    ids = good["id"]
    first = pc.index(pc.equal(ids.slice(1), ids.slice(0, len(ids) - 1)), pa.scalar(True)).as_py()
    if first >= 0:
        a, b = (os.fsdecode(good["path"][place].as_py()) for place in (first, first + 1))
        raise InputError(
            f"images: a picture of {a} and one of {b} would both have the id {ids[first].as_py()!r}; rename one of "
            "these files, or give them ids in a table of images"
        )


def _with_labels(good: pa.Table, labels: str | None, threads: int) -> tuple[pa.Table, int]:
    """The table with the label of every file, its digest and its pixels; and how many files have one.

    Labels are matched among the files that are images: a part has matched them among all candidates.
    """
    if labels is None and good["given"].null_count == len(good):
        return good, 0
    columns = [_texts(good[name]) for name in ("source", "path", "stem", "given")]
    files = {row[0]: Candidate(*row) for row in zip(*columns, strict=True)}
    label_of = match_labels(list(files.values()), labels)
    wanted = [label_of.get(source) for source in columns[0]]
    known = [good[name].to_pylist() for name in ("label", "label_digest", "label_pixels")]
    sizes = zip(*(good[name].to_pylist() for name in ("height", "width", "view")), strict=True)
    tasks: dict[int, LabelTask] = {}
    for i, (label, before, size) in enumerate(zip(wanted, known[0], sizes, strict=True)):
        if label != before:
            known[1][i] = known[2][i] = None
            if label is not None:
                tasks[i] = (label, columns[1][i], *size)
    for i, facts in zip(tasks, read_labels(list(tasks.values()), threads), strict=True):
        known[1][i], known[2][i] = facts.digest, packed(facts.pixels)
    values: Mapping[str, Sequence[Any]] = {"label": wanted, "label_digest": known[1], "label_pixels": known[2]}
    for name, column in values.items():
        good = good.set_column(good.schema.get_field_index(name), name, pa.array(column, pa.large_string()))
    return good, len(label_of)


def _texts(column: Any) -> list[Any]:
    return [None if each is None else os.fsdecode(each) for each in column.to_pylist()]

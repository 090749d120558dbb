"""inputs: images -> manifest, shards, rejected list."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from maskmill.errors import InputError
from maskmill.images.labels import LabelFacts, label_facts
from maskmill.images.presence import check_place
from maskmill.inputs._check import Part, check_all, in_processes
from maskmill.inputs._cut import left_out
from maskmill.inputs._labels import match_labels, write_classes
from maskmill.inputs._several import find_all
from maskmill.inputs._shards import shard_names
from maskmill.inputs._sources import Candidate, Listing, counted, find
from maskmill.progress import track
from maskmill.recipe.model import Stage
from maskmill.recipe.sections import Inputs
from maskmill.redact import redact
from maskmill.store.artefact import write_table
from maskmill.store.atomic import atomic
from maskmill.store.hashing import json_hash
from maskmill.store.manifest import REJECTED_CRC32C, ROW_GROUP, owner
from maskmill.store.provenance import Provenance
from maskmill.store.seal import file_crc32c

LINKS_NAMED = 20
MANY_SHARDS = 2000  # beyond this Snakemake plans for minutes
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
ALL_EMPTY = (
    "images: every window of every image is empty (nodata or bare background); set inputs.window.skip_empty: false to "
    "keep them"
)
Rejected = tuple[str, str, str]  # id, path, reason


@dataclass(frozen=True)
class Outputs:
    """Files to write: the manifest, sorted by id; the rejected list (id, path, reason) as CSV; and, as JSON, how many
    labels there are and how many of their pixels have which id.
    """

    manifest: Path
    rejected: Path
    classes: Path


def run(
    images: str | Sequence[str],
    labels: str | None,
    params: Mapping[str, Any],
    out: Outputs,
    threads: int,
    frames: Path,
) -> None:
    """Check every image and every label, and write the outputs.

    `images` is one source or several (see `find` and `find_all`). `params` is the `inputs` section; the frames of a
    video go to a folder below `frames`.

    Raises:
        InputError: nothing to read; more rejected than `tolerated`; labels that do not fit.
    """
    settings: Inputs = Stage.of("inputs", params).settings
    sources = [images] if isinstance(images, str) else list(images)
    for source in sources:
        check_place(source, out.manifest)
    limits = settings.frame_step, settings.max_pixels
    if len(sources) == 1:
        found = find(sources[0], labels, Path(frames), *limits)
    else:
        found = find_all(sources, labels, Path(frames), *limits)
    chosen = _spread(found.candidates, settings.max_images)
    full = settings.verify == "full"
    checks = check_all([c.path for c in chosen], full, threads, settings.max_pixels, settings.window)
    checked = list(track(checks, len(chosen), "inputs: checked"))
    rejected = [(c.id, c.path, r) for c, r in zip(chosen, checked, strict=True) if isinstance(r, str)]
    _write_rejected(out.rejected, rejected)
    _enforce_budget(rejected, len(chosen), settings, out.rejected)
    good = [(c, r) for c, r in zip(chosen, checked, strict=True) if not isinstance(r, str)]
    label_of = match_labels([c for c, _ in good], labels)
    pictures = sorted((Picture(c, part, label_of.get(c.id)) for c, parts in good for part in parts), key=lambda p: p.id)
    if not pictures:
        raise InputError(ALL_EMPTY)
    facts = _read_labels(pictures, threads)
    seen = {image_id: each.digest for image_id, each in facts.items()}
    shards = shard_names([p.id for p in pictures], [p.part.digest for p in pictures], settings.shard_size)
    rows = [p.row(shard, seen.get(p.id)) for p, shard in zip(pictures, shards, strict=True)]
    table = pa.table(dict(zip(_SCHEMA.names, zip(*rows, strict=True), strict=True)), schema=_SCHEMA)
    if not any(p.part.view for p in pictures):
        table = table.drop_columns(["parent", "view"])
    table = table.replace_schema_metadata({REJECTED_CRC32C: str(file_crc32c(out.rejected))})
    unique = list(dict.fromkeys(shards))
    write_classes(out.classes, facts.values(), params)
    write_table(out.manifest, table, Provenance.of("inputs", params, [json_hash(unique)]), ROW_GROUP)
    _say_windows([(owner(p.id), p.part.view) for p in pictures])
    _summary(found, len(rows), len(rejected), len(label_of), len(unique), settings.shard_size)


@dataclass(frozen=True, slots=True)
class Picture:
    """A row of the manifest to be: a picture of a file that was checked, and the label of the file."""

    source: Candidate
    part: Part
    label: str | None

    @property
    def id(self) -> str:
        """The id of the file, and the name of the part."""
        return self.source.id + self.part.name

    def row(self, shard: str, label_digest: str | None) -> tuple[Any, ...]:
        """Its columns, in the order of `_SCHEMA`."""
        part, parent = self.part, self.source.id if self.part.name else None
        file = self.id, self.source.path, part.width, part.height, part.bytes, part.digest
        return (*file, shard, self.label, label_digest, part.crc32c, parent, part.view)


def _read_labels(pictures: Sequence[Picture], threads: int) -> dict[str, LabelFacts]:
    """{image id: facts of its label}, each label decoded once; the first that cannot be used is an InputError."""
    labelled = [p for p in pictures if p.label is not None]
    tasks = {p.id: (p.label, p.source.path, p.part.height, p.part.width, p.part.view) for p in labelled}
    found = track(in_processes(_facts, list(tasks.values()), threads), len(tasks), "inputs: labels")
    facts: dict[str, LabelFacts] = {}
    for image_id, each in zip(tasks, found, strict=True):
        if isinstance(each, str):
            raise InputError(each)
        facts[image_id] = each
    return facts


def _facts(task: tuple[str, str, int, int, str | None]) -> LabelFacts | str:
    return label_facts(*task)


def _spread(found: list[Candidate], limit: int | None) -> list[Candidate]:
    """At most `limit` candidates, evenly spread over the sorted ids."""
    if limit is None or len(found) <= limit:
        return found
    return [found[i] for i in np.linspace(0, len(found) - 1, limit).round().astype(int)]


def _write_rejected(path: Path, rejected: Iterable[Rejected]) -> None:
    with (
        atomic(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        csv.writer(file).writerows([("id", "path", "reason"), *([redact(cell) for cell in row] for row in rejected)])


def tolerated(total: int, settings: Inputs) -> int:
    """How many of `total` images may be unreadable: a share of many, a few of few, never all."""
    if settings.max_rejected == 0:
        return 0
    few = min(settings.max_rejected_count, total // 2)
    return min(max(int(settings.max_rejected * total), few), total - 1)


def _enforce_budget(rejected: list[Rejected], total: int, settings: Inputs, listing: Path) -> None:
    if len(rejected) <= tolerated(total, settings):
        return
    # Snakemake deletes the outputs of a failed job: keep the list under a name that it does not know.
    kept = listing.with_name("rejected.last.csv")
    _write_rejected(kept, rejected)
    limits = f"inputs.max_rejected={settings.max_rejected:g}"
    if settings.max_rejected > 0:
        limits += f" and inputs.max_rejected_count={settings.max_rejected_count} (up to half of them) allow"
    share = "none is left" if len(rejected) == total else f"more than {limits}"
    first = "; ".join(" ".join(redact(f"{path}: {reason}").split()) for _, path, reason in rejected[:10])
    raise InputError(
        f"images: {len(rejected)} of {total} are unreadable, {share}; mend or remove them, or raise "
        f"inputs.max_rejected; all are listed in {kept}; the first: {first}"
    )


def _say_windows(pictures: Sequence[tuple[str, str | None]]) -> None:
    images, windows, empty = left_out(pictures)
    if images:
        cut = "1 image is" if images == 1 else f"{images} images are"
        print(f"inputs: {cut} cut into {windows} windows; {empty} empty windows are left out", file=sys.stderr)


def _summary(found: Listing, images: int, rejected: int, labels: int, shards: int, shard_size: int) -> None:
    skipped = f"; {counted(found.skipped)} skipped: no image suffix" if found.skipped else ""
    again = f"; {found.again} named by two sources and taken once" if found.again else ""
    print(
        f"inputs: {images} images, {shards} shards, {rejected} rejected, {labels} labels{skipped}{again}",
        file=sys.stderr,
    )
    if found.links:
        first = ", ".join(found.links[:LINKS_NAMED]) + (", ..." if len(found.links) > LINKS_NAMED else "")
        print(
            f"inputs: {len(found.links)} {'link' if len(found.links) == 1 else 'links'} not followed, as the folder is "
            f"read under another path or lies around the images: {first}",
            file=sys.stderr,
        )
    if shards > MANY_SHARDS:
        wanted = -(-images // MANY_SHARDS)
        print(
            f"inputs: {shards} shards are many jobs to plan; inputs.shard_size: {wanted} (now {shard_size}) would "
            f"make about {MANY_SHARDS}",
            file=sys.stderr,
        )

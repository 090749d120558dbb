"""inputs: images -> manifest, shards, rejected list.

Three steps: the candidates are listed, their files are checked part by part, and the parts are gathered. Few files are
one part, and one job does all three; of many, every part has a job (rules/inputs.smk). Both write the same bytes.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from maskmill.errors import InputError
from maskmill.images.presence import check_place
from maskmill.images.view import View
from maskmill.inputs._channels import agreed
from maskmill.inputs._check import EMPTY
from maskmill.inputs._checked import checked
from maskmill.inputs._cut import left_out
from maskmill.inputs._gathered import Rejected, gathered, rejected_of
from maskmill.inputs._labels import write_classes
from maskmill.inputs._listed import About, listed, read_about, read_part, write_listing
from maskmill.inputs._sources import counted
from maskmill.recipe.inputs import Inputs
from maskmill.recipe.model import Stage
from maskmill.redact import redact
from maskmill.store.artefact import read_table, write_table
from maskmill.store.atomic import atomic
from maskmill.store.hashing import json_hash
from maskmill.store.manifest import REJECTED_CRC32C, RENDERING, ROW_GROUP
from maskmill.store.provenance import Provenance
from maskmill.store.seal import file_crc32c

LINKS_NAMED = 20
ALL_EMPTY = (
    "images: every window of every image is empty (nodata or bare background); set inputs.window.skip_empty: false to "
    "keep them"
)
MANY_SHARDS = 2000  # beyond this Snakemake plans for minutes


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
    settings = _settings(params)
    sources = _placed(images, out.manifest)
    chosen, about = listed(sources, labels, Path(frames), settings)
    _gather(checked(chosen, settings, about.rendering, threads), about, labels, params, out, threads)


def list_files(
    images: str | Sequence[str], labels: str | None, params: Mapping[str, Any], out: Path, frames: Path
) -> None:
    """Write the candidates in parts; of them a sample is opened, where their range has to be decided; see `run`.

    Args:
        params: the `inputs` section; `parts`: into how many parts; `files`: how many there were when this was planned.

    Raises:
        InputError: nothing to read; labels that do not fit.
    """
    section = dict(params)
    parts, _ = int(section.pop("parts")), section.pop("files", None)
    chosen, about = listed(_placed(images, out), labels, Path(frames), _settings(section))
    write_listing(out, chosen, about, parts, labels, Provenance.of("inputs", params))
    print(f"inputs: {len(chosen)} files listed in {parts} parts", file=sys.stderr)


def check_part(listing: Path, part: str, params: Mapping[str, Any], out: Path, threads: int) -> None:
    """Check the files of one part of a listing, and their labels.

    Raises:
        InputError: a label cannot be used. StoreError: no such listing.
    """
    chosen, labels = read_part(listing, part)
    table = checked(chosen, _settings(params), read_about(listing).rendering, threads, labels)
    write_table(out, table, Provenance.of("inputs", dict(params) | {"part": part}), ROW_GROUP)


def gather(
    listing: Path, checked: Path, labels: str | None, params: Mapping[str, Any], out: Outputs, threads: int
) -> None:
    """Write what `run` writes, from a listing and the folder of its parts.

    Raises:
        InputError: more rejected than `tolerated`; labels that do not fit. StoreError: a part is missing.
    """
    about = read_about(listing)
    table = pa.concat_tables([read_table(checked / f"{part}.parquet") for part in about.parts])
    _gather(table, about, labels, params, out, threads)


def _settings(params: Mapping[str, Any]) -> Inputs:
    settings: Inputs = Stage.of("inputs", params).settings
    return settings


def _placed(images: str | Sequence[str], written: Path) -> list[str]:
    """The sources of images, none of which holds what is written."""
    sources = [images] if isinstance(images, str) else list(images)
    for source in sources:
        check_place(source, written)
    return sources


def _gather(
    table: pa.Table, about: About, labels: str | None, params: Mapping[str, Any], out: Outputs, threads: int
) -> None:
    settings = _settings(params)
    rejected = rejected_of(table)
    _write_rejected(out.rejected, rejected)
    unreadable = [each for each in rejected if each[2] != EMPTY]
    empty = len(rejected) - len(unreadable)
    if empty and empty == about.count:
        raise InputError(ALL_EMPTY)
    _enforce_budget(unreadable, about.count - empty, settings, out.rejected)
    rendering = agreed(table, about.rendering)
    found, facts = gathered(table, labels, settings.shard_size, threads, settings.depth)
    known: dict[bytes | str, bytes | str] = {REJECTED_CRC32C: str(file_crc32c(out.rejected))}
    if "view" in found.table.column_names or rendering.chosen:
        known[RENDERING] = rendering.text()
    made = found.table.replace_schema_metadata(known)
    write_classes(out.classes, facts["label_digest"].to_pylist(), facts["label_pixels"].to_pylist(), params)
    write_table(out.manifest, made, Provenance.of("inputs", params, [json_hash(list(found.shards))]), ROW_GROUP)
    _say_windows(made, empty)
    _summary(about, len(made), len(unreadable), found.labels, len(found.shards), settings.shard_size)


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
    first = "; ".join(" ".join(redact(text).split()) for text in _grouped(rejected))
    raise InputError(
        f"images: {len(rejected)} of {total} are unreadable, {share}; mend or remove them, or raise "
        f"inputs.max_rejected; all are listed in {kept}; the first: {first}"
    )


def _grouped(rejected: Sequence[Rejected]) -> list[str]:
    """The first ten files, those of one reason together."""
    files: dict[str, list[str]] = {}
    for _, path, reason in rejected[:10]:
        files.setdefault(reason, []).append(path)
    return [f"{', '.join(each)}: {reason}" for reason, each in files.items()]


def _say_windows(made: pa.Table, whole: int) -> None:
    """How many windows there are, and what is left out: some of an image's, or all of them, of `whole` images."""
    if whole:
        named = "1 image holds" if whole == 1 else f"{whole} images hold"
        print(f"inputs: {named} nothing but empty windows; see rejected.csv", file=sys.stderr)
    if "view" not in made.column_names:
        return
    images, windows, empty = left_out(zip(made["id"].to_pylist(), made["view"].to_pylist(), strict=True))
    if images:
        cut = "1 image is" if images == 1 else f"{images} images are"
        levels = sorted({View.of(text).level for text in made["view"].to_pylist() if text})
        read = f" of level {', '.join(map(str, levels))}" if levels != [0] else ""
        print(f"inputs: {cut} cut into {windows} windows{read}; {empty} empty windows are left out", file=sys.stderr)


def _summary(found: About, images: int, rejected: int, labels: int, shards: int, shard_size: int) -> None:
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

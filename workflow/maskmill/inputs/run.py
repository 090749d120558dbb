"""inputs: images -> manifest, shards, rejected list."""

from __future__ import annotations

import csv
import hashlib
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa

from maskmill.artefact import Provenance, atomic, write_table
from maskmill.errors import InputError
from maskmill.images import displayed_size, verify
from maskmill.inputs._listing import walk
from maskmill.inputs._shards import shard_names
from maskmill.inputs._sources import Candidate, find
from maskmill.progress import track

LABEL_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".gif")
Checked = tuple[str, int, int, int] | str  # digest, height, width, bytes; or the reason of a rejection


def run(
    images: str,
    labels: str | None,
    settings: dict[str, Any],
    out_manifest: Path,
    out_rejected: Path,
    threads: int,
    frames: Path,
) -> None:
    """Check every image, write the manifest (sorted by id) and the rejected list.

    Raises:
        InputError: nothing to read; more rejected than `inputs.max_rejected`; a label of the wrong size.
    """
    found = find(images, frames, settings["frame_step"])
    found = _spread(found, settings["max_images"])
    checked = list(track(_check_all(found, settings["verify"] == "full", threads), len(found), "inputs"))
    rejected = [(c.id, c.path, r) for c, r in zip(found, checked, strict=True) if isinstance(r, str)]
    _write_rejected(out_rejected, rejected)
    _enforce_budget(rejected, len(found), settings["max_rejected"], out_rejected)
    good = [(c, r) for c, r in zip(found, checked, strict=True) if not isinstance(r, str)]
    label_of = _labels([c for c, _ in good], labels)
    ids = [c.id for c, _ in good]
    digests = [r[0] for _, r in good]
    columns = {
        "id": ids,
        "path": [c.path for c, _ in good],
        "width": [r[2] for _, r in good],
        "height": [r[1] for _, r in good],
        "bytes": [r[3] for _, r in good],
        "digest": digests,
        "shard": shard_names(ids, digests, settings["shard_size"]),
        "label": [label_of.get(i) for i in ids],
    }
    _check_label_sizes(columns)
    table = pa.table(columns, schema=_schema())
    write_table(out_manifest, table, Provenance.of("inputs", settings))
    count = len(set(columns["shard"]))
    print(
        f"inputs: {len(ids)} images in {count} shards, {len(rejected)} rejected, {len(label_of)} labels",
        file=sys.stderr,
    )


def _schema() -> pa.Schema:
    text, number = pa.string(), pa.int64()
    kinds = dict.fromkeys(("id", "path", "digest", "shard", "label"), text) | dict.fromkeys(
        ("width", "height", "bytes"), number
    )
    return pa.schema([(n, kinds[n]) for n in ("id", "path", "width", "height", "bytes", "digest", "shard", "label")])


def _spread(found: list[Candidate], limit: int | None) -> list[Candidate]:
    """At most `limit` candidates, evenly spread over the sorted ids."""
    if limit is None or len(found) <= limit:
        return found
    return [found[i] for i in np.linspace(0, len(found) - 1, limit).round().astype(int)]


def _check_all(found: list[Candidate], full: bool, threads: int) -> Iterator[Checked]:
    check = partial(check_file, full=full)
    paths = [c.path for c in found]
    if threads <= 1 or len(paths) < 64:  # a pool costs more than it saves
        yield from map(check, paths)
        return
    with ProcessPoolExecutor(threads) as pool:
        yield from pool.map(check, paths, chunksize=16)


def check_file(path: str, full: bool) -> Checked:
    """(digest, height, width, bytes) of one image file, or the reason why it is rejected."""
    try:
        body = Path(path).read_bytes()
        height, width = verify(body) if full else displayed_size(body)
    except (InputError, OSError) as error:
        return " ".join(str(error).split())
    return hashlib.blake2b(body, digest_size=8).hexdigest(), height, width, len(body)


def _write_rejected(path: Path, rejected: Iterable[tuple[str, str, str]]) -> None:
    with atomic(path) as temporary, temporary.open("w", newline="") as file:
        csv.writer(file).writerows([("id", "path", "reason"), *rejected])


def _enforce_budget(rejected: list[tuple[str, str, str]], total: int, budget: float, listing: Path) -> None:
    if len(rejected) <= budget * total and len(rejected) < total:
        return
    first = "; ".join(f"{path}: {reason}" for _, path, reason in rejected[:10])
    copy = listing.with_name("rejected.last.csv")  # Snakemake deletes the outputs of a failed job
    copy.write_bytes(listing.read_bytes())
    raise InputError(
        f"{len(rejected)} of {total} images are unreadable, more than inputs.max_rejected={budget:g}; mend or remove "
        f"them, or raise inputs.max_rejected; all in {copy}; the first: {first}"
    )


def _labels(candidates: list[Candidate], labels: str | None) -> dict[str, str]:
    """Image id -> label file: the manifest's own column, or a folder with the same stems."""
    found = {c.id: c.label for c in candidates if c.label}
    if not labels:
        return found
    folder = Path(labels)
    if not folder.is_dir():
        raise InputError(f"labels: {labels!r} is not a folder; give a folder of label images with the images' stems")
    files = [name for name, _ in walk(folder) if name.lower().endswith(LABEL_SUFFIXES)]
    by_path = {str(PurePosixPath(name).with_suffix("")): name for name in files}
    by_stem = _unique([PurePosixPath(name).stem for name in files], files)
    single = _unique([PurePosixPath(c.id).name for c in candidates], [c.id for c in candidates])
    for candidate in candidates:
        bare = PurePosixPath(candidate.id)
        plain = str(bare.with_suffix("")) if bare.suffix else str(bare)
        name = by_path.get(candidate.id) or by_path.get(plain)
        if name is None and bare.name in single:
            name = by_stem.get(bare.name)
        if name is not None:
            found[candidate.id] = str((folder / name).resolve())
    if not found:
        example = candidates[0].id
        raise InputError(
            f"labels: none of the {len(files)} files in {labels!r} has the stem of an image, such as {example!r}"
        )
    return found


def _unique(stems: list[str], files: list[str]) -> dict[str, str]:
    """Stem -> file for the stems that one file has."""
    counts = Counter(stems)
    return {stem: name for stem, name in zip(stems, files, strict=True) if counts[stem] == 1}


def _check_label_sizes(columns: dict[str, list[Any]]) -> None:
    for path, label, height, width in zip(*(columns[c] for c in ("path", "label", "height", "width")), strict=True):
        if label is None:
            continue
        try:
            size = displayed_size(label)
        except (InputError, OSError) as error:
            raise InputError(f"{label}: label {error}") from None
        if size != (height, width):
            raise InputError(
                f"{label}: label of {size[1]}x{size[0]} pixels for {path} of {width}x{height}; "
                "labels have the size of their image as displayed"
            )

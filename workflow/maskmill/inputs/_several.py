"""Images named by a list: folders, globs, tables, videos and single files together, with ids that stay unique."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from maskmill.errors import InputError
from maskmill.images.listing import is_glob
from maskmill.images.tables import has_column, is_table
from maskmill.inputs._sources import VIDEO_SUFFIXES, Candidate, Listing, find, glob_root, unique_ids


def find_all(
    images: Sequence[str],
    labels: str | None,
    frames: Path,
    frame_step: int,
    max_pixels: int,
    depth: str | None = None,
) -> Listing:
    """Everything that several sources name.

    The id of an image is that which it has where its source is given alone, below the name of the source
    (`source_name`); ids of a table's column `id` stay as they are. Ids thus depend neither on the order of the sources
    nor on which others there are. A file that two sources name is taken once, as the first of them has it.

    Raises:
        InputError: see `find`; or two files have the same id.
    """
    kept: dict[str, Candidate] = {}
    given: set[str] = set()  # paths of images whose ids a table gives
    skipped: Counter[str] = Counter()
    links: list[str] = []
    again = 0
    for source in images:
        listing, name = find(source, labels, frames, frame_step, max_pixels, depth), source_name(source)
        skipped += listing.skipped
        links += listing.links
        for candidate in listing.candidates:
            before = kept.get(candidate.path)
            if before is not None:
                kept[candidate.path], again = replace(before, label=before.label or candidate.label), again + 1
                continue
            kept[candidate.path] = replace(candidate, stem=f"{name}/{candidate.stem}") if name else candidate
            if is_table(source) and not name:
                given.add(candidate.path)
    named = _distinct(kept.values(), given)
    return Listing(sorted(named, key=lambda candidate: candidate.id), skipped, links, again)


def source_name(source: str) -> str:
    """What the ids of a source begin with: the name of the folder that its paths start at, or of a table.

    Nothing for a table whose ids are given, for a video, whose ids begin with its name anyway, and for the root folder.
    """
    path = Path(os.path.abspath(source))
    if is_glob(source):
        return Path(os.path.abspath(glob_root(source))).name
    if is_table(source):
        return "" if has_column(source, "id") else path.stem
    if path.is_dir():
        return path.name
    return "" if path.suffix.lower() in VIDEO_SUFFIXES else path.parent.name


def _distinct(candidates: Iterable[Candidate], given: set[str]) -> list[Candidate]:
    """With ids of their stems, which keep the suffix where files differ in nothing else; ids of tables stay."""
    found = [candidate for candidate in candidates if candidate.path in given]
    others = [candidate for candidate in candidates if candidate.path not in given]
    ids = unique_ids([candidate.stem + PurePosixPath(candidate.path).suffix for candidate in others])
    found += [replace(candidate, id=i) for candidate, i in zip(others, ids, strict=True)]
    seen: dict[str, Candidate] = {}
    for candidate in found:
        other = seen.setdefault(candidate.id, candidate)
        if other is not candidate:
            raise InputError(
                f"images: {other.path} and {candidate.path} have the same id {candidate.id!r}, because their folders "
                "have the same name; rename one, or name the images by a table with the columns id and path"
            )
    return found

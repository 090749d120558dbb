"""The list of candidates: what `images` names, before any file is opened, and how it is divided into parts."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from maskmill.images.parts import part_name
from maskmill.images.rendering import Rendering
from maskmill.inputs._labels import match_labels
from maskmill.inputs._range import decide
from maskmill.inputs._several import find_all
from maskmill.inputs._sources import Candidate, Listing, find
from maskmill.recipe.inputs import Inputs
from maskmill.store.artefact import read_table, write_table
from maskmill.store.provenance import Provenance

_FACTS = b"listing"  # key of the table's metadata
# File names are bytes: one that is no UTF-8 is listed like any other, and rejected where it is checked.
_SCHEMA = pa.schema([
    ("part", pa.string()), ("id", pa.large_binary()), ("path", pa.large_binary()), ("stem", pa.large_binary()),
    ("label", pa.large_binary()), ("matched", pa.large_binary()),
])  # fmt: skip


@dataclass(frozen=True)
class About:
    """What a listing says besides its candidates.

    Attributes:
        count: of the candidates. skipped, links, again: see `Listing`. rendering: how the files become pictures, see
            `decide`. parts: their names; none where there are none.
    """

    count: int
    skipped: Counter[str]
    links: Sequence[str]
    again: int
    rendering: Rendering
    parts: Sequence[str] = ()

    @classmethod
    def of(cls, listing: Listing, count: int, rendering: Rendering) -> About:
        """Of a listing of which so many candidates are kept."""
        return cls(count, listing.skipped, listing.links, listing.again, rendering)

    def as_json(self) -> str:
        """For the metadata of a table."""
        body = {field.name: getattr(self, field.name) for field in fields(self)}
        return json.dumps(body | {"rendering": self.rendering.text()})

    @classmethod
    def from_json(cls, text: str | bytes) -> About:
        """What `as_json` made."""
        body = json.loads(text)
        return cls(**body | {"skipped": Counter(body["skipped"]), "rendering": Rendering.read(body["rendering"])})


def listed(sources: Sequence[str], labels: str | None, frames: Path, settings: Inputs) -> tuple[list[Candidate], About]:
    """The candidates of all sources, sorted by id, at most `max_images` of them.

    Raises:
        InputError: see `find` and `find_all`.
    """
    limits = settings.frame_step, settings.max_pixels, settings.depth
    if len(sources) == 1:
        found = find(sources[0], labels, frames, *limits)
    else:
        found = find_all(sources, labels, frames, *limits)
    chosen = _spread(found.candidates, settings.max_images)
    return chosen, About.of(found, len(chosen), decide([c.path for c in chosen], settings))


def _spread(found: list[Candidate], limit: int | None) -> list[Candidate]:
    """At most `limit` candidates, evenly spread over the sorted ids."""
    if limit is None or len(found) <= limit:
        return found
    return [found[i] for i in np.linspace(0, len(found) - 1, limit).round().astype(int)]


def write_listing(
    out: Path, chosen: Sequence[Candidate], about: About, parts: int, labels: str | None, made: Provenance
) -> None:
    """Write the candidates in `parts` parts of consecutive ids, each with the label that fits it among all of them.

    Raises:
        InputError: see `match_labels`.
    """
    matched = match_labels(chosen, labels)
    names = [part_name(i) for i in range(parts)]
    columns = [
        pa.array([names[i * parts // len(chosen)] for i in range(len(chosen))], pa.string()),
        *(_bytes([getattr(c, name) for c in chosen]) for name in ("id", "path", "stem", "label")),
        _bytes([matched.get(c.id) for c in chosen]),
    ]
    table = pa.table(columns, schema=_SCHEMA.with_metadata({_FACTS: replace(about, parts=names).as_json()}))
    write_table(out, table, made, -(-len(chosen) // parts))


def _bytes(texts: Sequence[str | None]) -> pa.Array:
    return pa.array([None if text is None else os.fsencode(text) for text in texts], pa.large_binary())


def read_about(listing: Path) -> About:
    """What a listing says besides its candidates; raises StoreError as `read_table`."""
    table = read_table(listing, ["part"], ("part", part_name(0)))
    return About.from_json(table.schema.metadata[_FACTS])


def read_part(listing: Path, part: str) -> tuple[list[Candidate], dict[str, str]]:
    """The candidates of a part, and the labels of those that have one; raises StoreError as `read_table`."""
    table = read_table(listing, _SCHEMA.names, ("part", part))
    columns = [_texts(table[name]) for name in ("id", "path", "stem", "label")]
    chosen = [Candidate(*row) for row in zip(*columns, strict=True)]  # type: ignore[arg-type]
    matched = zip(chosen, _texts(table["matched"]), strict=True)
    return chosen, {candidate.id: label for candidate, label in matched if label is not None}


def _texts(column: Any) -> list[str | None]:
    return [None if each is None else os.fsdecode(each) for each in column.to_pylist()]

"""The manifest: which images, under which stable ids, in which shards."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from maskmill.artefact import read_table
from maskmill.errors import StoreError


@dataclass(frozen=True)
class Row:
    """One image: id, absolute path, size in pixels as displayed (after EXIF rotation), shard, label file or None."""

    id: str
    path: str
    width: int
    height: int
    shard: str
    label: str | None


@dataclass(frozen=True)
class Manifest:
    """All rows, sorted by id."""

    rows: tuple[Row, ...]

    @cached_property
    def shards(self) -> list[str]:
        """Shard names in order of first appearance."""
        return list(dict.fromkeys(row.shard for row in self.rows))

    @cached_property
    def by_id(self) -> dict[str, Row]:
        """Row by image id."""
        return {row.id: row for row in self.rows}

    def of(self, shard: str) -> list[Row]:
        """Rows of one shard; a shard that the manifest does not have is a StoreError."""
        rows = [row for row in self.rows if row.shard == shard]
        if not rows:
            raise StoreError(f"shard {shard!r} is not in the manifest; run snakemake again, the images have changed")
        return rows


def read_manifest(path: str | Path) -> Manifest:
    """Read results/inputs/manifest.parquet."""
    columns = ["id", "path", "width", "height", "shard", "label"]
    table = read_table(path, columns)
    return Manifest(tuple(Row(*values) for values in zip(*(table[c].to_pylist() for c in columns), strict=True)))

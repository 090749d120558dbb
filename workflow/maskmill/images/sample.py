"""Which images a report looks at: never more than a few hundred, whatever the size of the run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from maskmill.store.artefact import read_table
from maskmill.store.manifest import REJECTED_CRC32C
from maskmill.store.ragged import Ragged

COLUMNS = ("id", "path", "width", "height", "shard")  # of the manifest
STATISTICS_IMAGES = 512  # images that shares and changes are measured on
STATISTICS_SHARDS = 24  # and the shards that they come from: opening a store costs more than reading it
SPAN_BYTES = 64 << 20  # several images of a shard are read in one piece up to this


@dataclass(frozen=True, slots=True)
class Picture:
    """One image of the manifest: width and height in pixels as displayed; and, as `Row` has them,
    what is known of its content, its parent and its view.
    """

    id: str
    path: str
    width: int
    height: int
    shard: str
    bytes: int | None = None
    crc32c: int | None = None
    parent: str | None = None
    view: str | None = None


@dataclass(frozen=True)
class Sample:
    """What the report reads.

    Attributes:
        total: images of the run. shards: all its shards, in order of first appearance.
        gallery: the images shown, evenly spread over the sorted ids.
        statistics: the images that shares are measured on, ids by shard.
    """

    total: int
    shards: tuple[str, ...]
    gallery: tuple[Picture, ...]
    statistics: dict[str, tuple[str, ...]]
    table: Any

    @property
    def rejected_crc32c(self) -> int | None:
        """Of the list of rejected files beside the manifest; None where it does not say."""
        value = (self.table.schema.metadata or {}).get(REJECTED_CRC32C)
        return None if value is None else int(value)

    @property
    def measured(self) -> int:
        """Number of images that shares are measured on."""
        return sum(map(len, self.statistics.values()))

    def pictures(self, ids: Sequence[str]) -> dict[str, Picture]:
        """Manifest rows of some ids; ids that the manifest does not have are left out."""
        import pyarrow as pa
        import pyarrow.compute as pc

        wanted = pa.array(sorted(set(ids)), pa.string())
        return {row.id: row for row in _pictures(self.table.filter(pc.is_in(self.table["id"], value_set=wanted)))}


def read(manifest: Path, gallery: int) -> Sample:
    """Read the manifest and choose; the choice depends on the ids only."""
    table = read_table(manifest, COLUMNS, optional=("bytes", "crc32c", "parent", "view"))
    total = len(table)
    shards = tuple(table["shard"].unique().to_pylist())
    shown = tuple(_pictures(table.take(spread(total, gallery))))
    return Sample(total, shards, shown, _statistics(table, shards, shown), table)


def spread(count: int, limit: int) -> np.ndarray:
    """At most `limit` of range(count), evenly spread, ends included: int64."""
    if limit <= 0 or count == 0:
        return np.zeros(0, np.int64)
    return np.unique(np.linspace(0, count - 1, min(count, limit)).round().astype(np.int64))


def _pictures(table: Any) -> Iterator[Picture]:
    names = table.column_names
    columns = (table[name].to_pylist() for name in names)
    return (Picture(**dict(zip(names, row, strict=True))) for row in zip(*columns, strict=True))


def _statistics(table: Any, shards: tuple[str, ...], shown: tuple[Picture, ...]) -> dict[str, tuple[str, ...]]:
    """All images of a small run; of a large one an even choice from the shards that the gallery opens anyway."""
    import pyarrow.compute as pc

    chosen = shards
    if len(table) > STATISTICS_IMAGES:
        anchors = list(dict.fromkeys(p.shard for p in shown)) or list(shards)
        chosen = tuple(anchors[i] for i in spread(len(anchors), STATISTICS_SHARDS))
    quota = max(1, STATISTICS_IMAGES // max(1, len(chosen)))
    if len(table) <= STATISTICS_IMAGES:
        quota = len(table)
    found = {}
    for shard in chosen:
        ids = table["id"].filter(pc.equal(table["shard"], shard)).to_pylist()
        found[shard] = tuple(ids[i] for i in spread(len(ids), quota))
    return found


def read_images(store: Ragged, ids: Sequence[str]) -> dict[str, np.ndarray]:
    """Values [h, w] of some images of one store, in one read where they lie close together."""
    places = sorted((store.index(image_id), image_id) for image_id in ids)
    if not places:
        return {}
    first, last = int(store.offsets[places[0][0]]), int(store.offsets[places[-1][0] + 1])
    if (last - first) * store.values.dtype.itemsize > SPAN_BYTES:
        return {image_id: store[i] for i, image_id in places}
    rows, found = store.rows(first, last), {}
    for i, image_id in places:
        h, w = (int(side) for side in store.grid[i])
        found[image_id] = rows[store.offsets[i] - first : store.offsets[i + 1] - first].reshape(h, w)
    return found

"""The tables of the stage: regions and pairs of a shard, and the tracks of all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from maskmill.store.artefact import read_metadata, read_table
from maskmill.store.manifest import Row
from maskmill.tracks._regions import Regions

REGIONS = pa.schema([
    ("image", pa.large_string()), ("region", pa.int32()), ("class", pa.int32()), ("area", pa.float64()),
    ("top", pa.float32()), ("left", pa.float32()), ("bottom", pa.float32()), ("right", pa.float32()),
])  # fmt: skip
PAIRS = pa.schema([
    ("image", pa.large_string()), ("next", pa.large_string()), ("region", pa.int32()), ("onto", pa.int32()),
    ("score", pa.float64()),
])  # fmt: skip
_KEPT = 64  # shards whose tables are in memory at a time


def region_rows(row: Row, found: Regions) -> pa.Table:
    """The regions of an image; areas in pixels of the picture, boxes too, their ends exclusive."""
    boxes = found.boxes * (row.height, row.width, row.height, row.width)
    areas = found.areas * (row.height * row.width / (found.grid[0] * found.grid[1]))
    columns = [[row.id] * len(found), found.numbers, found.classes, areas, *boxes.T]
    return _table(columns, REGIONS)


def pair_rows(a: Row, b: Row, scores: np.ndarray) -> pa.Table:
    """The pairs of regions of two images that may be one thing; regions by their places, from 0."""
    i, j = np.nonzero(scores)
    return _table([[a.id] * len(i), [b.id] * len(i), i, j, scores[i, j]], PAIRS)


def _table(columns: list[Any], schema: pa.Schema) -> pa.Table:
    arrays = [pa.array(column, type=field.type) for column, field in zip(columns, schema, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema)


def hash_of(path: str | Path) -> str:
    """Hash of what made a table."""
    return str(json.loads(read_metadata(path).get(b"maskmill", b"{}")).get("hash", ""))


class ShardTables:
    """The tables of the shards by image; those of the last shards stay in memory."""

    def __init__(self, regions: Mapping[str, Path], pairs: Mapping[str, Path]) -> None:
        self._regions, self._pairs = regions, pairs
        self._kept: dict[str, tuple[dict[str, pa.Table], dict[tuple[str, str], pa.Table]]] = {}

    def regions(self, row: Row) -> pa.Table:
        """The regions of an image, in the order in which pairs count them."""
        return self._of(row.shard)[0].get(row.id, REGIONS.empty_table())

    def scores(self, a: Row, b: Row) -> np.ndarray:
        """How alike the regions of two images of one shard are, [n, m]."""
        found = np.zeros((len(self.regions(a)), len(self.regions(b))))
        pairs = self._of(a.shard)[1].get((a.id, b.id))
        if pairs is not None:
            found[np.asarray(pairs["region"]), np.asarray(pairs["onto"])] = np.asarray(pairs["score"])
        return found

    def _of(self, shard: str) -> tuple[dict[str, pa.Table], dict[tuple[str, str], pa.Table]]:
        if shard not in self._kept:
            regions = read_table(self._regions[shard], REGIONS.names)
            pairs = read_table(self._pairs[shard], PAIRS.names)
            by_image = _runs(regions, regions["image"].to_pylist())
            by_pair = _runs(pairs, list(zip(pairs["image"].to_pylist(), pairs["next"].to_pylist(), strict=True)))
            self._kept[shard] = by_image, by_pair
            while len(self._kept) > _KEPT:
                del self._kept[next(iter(self._kept))]
        return self._kept[shard]


def _runs(table: pa.Table, keys: list[Any]) -> dict[Any, pa.Table]:
    """The parts of a table whose rows have one key each; they lie together."""
    found, start = {}, 0
    for i in range(1, len(keys) + 1):
        if i == len(keys) or keys[i] != keys[start]:
            found[keys[start]] = table.slice(start, i - start)
            start = i
    return found

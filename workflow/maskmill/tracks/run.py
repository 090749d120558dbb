"""tracks: last masks of ordered images -> one number for one thing. File reading and writing of the stage.

`run_match` compares the regions of neighbouring frames that lie in one shard. `run_join` follows them through every
sequence, and compares by itself the few pairs of frames that a border of shards lies between: so where shards begin
changes no track. `run_map` lays the numbers over the masks of a shard.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from maskmill.errors import StoreError
from maskmill.images.instances import ranked
from maskmill.images.order import ordered, sequences
from maskmill.progress import track
from maskmill.recipe.model import Stage
from maskmill.recipe.sections import Tracks
from maskmill.store.artefact import read_table, write_table
from maskmill.store.manifest import Row, read_manifest, read_shard
from maskmill.store.provenance import Provenance
from maskmill.store.ragged import RaggedWriter
from maskmill.tracks._frames import FrameFiles, Frames, Recent
from maskmill.tracks._join import linked
from maskmill.tracks._match import alike
from maskmill.tracks._regions import Regions
from maskmill.tracks._tables import PAIRS, REGIONS, ShardTables, hash_of, pair_rows, region_rows

SCHEMA = pa.schema([
    ("sequence", pa.large_string()), ("position", pa.int32()), ("image", pa.large_string()), ("region", pa.int32()),
    ("track", pa.uint32()), ("class", pa.int32()), ("area", pa.float64()),
    ("top", pa.float32()), ("left", pa.float32()), ("bottom", pa.float32()), ("right", pa.float32()),
    ("score", pa.float64()),
])  # fmt: skip


def run_match(
    files: FrameFiles, manifest: str | Path, params: Mapping[str, Any], shard: str, out: str | Path, pairs: str | Path
) -> None:
    """Write the regions of a shard's frames, and how alike those of neighbouring frames are.

    Args:
        files: of this shard. params: the `tracks` section.
        out: Parquet (image, region, class, area, box).
        pairs: Parquet (image, next, region, onto, score) of all pairs of regions that may be one thing, in frames at
            most `gap` + 1 apart; regions by their places in the image, from 0.

    Raises:
        StoreError: a store is damaged, or not of this shard.
    """
    settings = _settings(params)
    frames = Frames(files, settings)
    recent = Recent(frames, settings.gap + 2)
    regions, found = [REGIONS.empty_table()], [PAIRS.empty_table()]
    series = sequences(read_shard(manifest, shard), settings.order)
    for rows in track(list(series.values()), len(series), "tracks"):
        for b, row in enumerate(rows):
            regions.append(region_rows(row, recent[row].regions))
            for a in range(max(0, b - settings.gap - 1), b):
                found.append(pair_rows(rows[a], row, alike(recent[rows[a]], recent[row], settings, b - a)))
    made = Provenance.of("tracks", dict(params), frames.hashes(shard))
    write_table(pairs, pa.concat_tables(found), made)
    write_table(out, pa.concat_tables(regions), made)


def run_join(
    files: FrameFiles,
    tables: tuple[Sequence[str | Path], Sequence[str | Path]],
    manifest: str | Path,
    params: Mapping[str, Any],
    out: str | Path,
) -> None:
    """Write the tracks of all sequences.

    Args:
        files: of all shards, for pairs of frames in two shards.
        tables: what `run_match` wrote of all shards: the tables of regions, and those of pairs.
        out: Parquet (sequence, position, image, region, track, class, area, box, score), by sequence and position.
            Tracks are numbered from 1, by sequence, then by their first frame and region. `score` says how alike a
            region is to the one before it on its track; it is null where the track begins.

    Raises:
        InputError: no image follows another. StoreError: a store is damaged.
    """
    settings = _settings(params)
    by_shard = [{Path(path).stem: Path(path) for path in each} for each in tables]
    own = ShardTables(*by_shard)
    recent = Recent(Frames(files, settings), settings.gap + 2)
    found, begun = [SCHEMA.empty_table()], 0
    series = ordered(read_manifest(manifest).rows, settings.order, "tracks")
    for name, rows in track(list(series.items()), len(series), "tracks"):

        def scores(a: int, b: int, rows: Sequence[Row] = rows) -> np.ndarray:
            one, other = rows[a], rows[b]
            if one.shard == other.shard:
                return own.scores(one, other)
            return alike(recent[one], recent[other], settings, b - a)

        regions = [own.regions(row) for row in rows]
        links = linked([len(each) for each in regions], scores, settings.gap)
        if begun + links.count > np.iinfo(np.uint32).max:
            raise StoreError("tracks: more than 2^32 tracks; raise tracks.min_area")
        for i, each in enumerate(regions):
            more = {
                "sequence": [name] * len(each),
                "position": [i] * len(each),
                "track": links.tracks[i] + begun + 1,
                "score": pa.array(links.scores[i], from_pandas=True),
            }
            columns = {column: each[column] for column in each.column_names} | more
            found.append(pa.table([columns[field.name] for field in SCHEMA], names=SCHEMA.names).cast(SCHEMA))
        begun += links.count
    hashes = [hash_of(path) for path in tables[0]]
    write_table(out, pa.concat_tables(found).combine_chunks(), Provenance.of("tracks", dict(params), hashes))


def run_map(
    files: FrameFiles, tracks: str | Path, manifest: str | Path, params: Mapping[str, Any], shard: str, out: str | Path
) -> None:
    """Write the number of the track of every cell of a shard's masks.

    Args:
        files: of this shard; tokens are not read. tracks: what `run_join` wrote.
        out: Ragged "tracks" uint32 on the grid of the masks (or instances); 0 is no track. Where instances overlap, a
            cell has the track of the best. The attribute `places` has (sequence, position) of every image, or null;
            `regions` its regions with their tracks, as pairs.
    """
    settings = _settings(params)
    frames, rows = Frames(files, settings.model_copy(update={"match": "overlap", "flow": "none"})), {}
    for row in read_shard(manifest, shard):
        rows[row.id] = row
    table = read_table(tracks, ["sequence", "position", "image", "region", "track"])
    numbers: dict[str, dict[int, int]] = {image_id: {} for image_id in rows}
    where: dict[str, tuple[str, int]] = {}
    for sequence, position, image, region, number in zip(*(c.to_pylist() for c in table.columns), strict=True):
        if image in rows:
            numbers[image][region], where[image] = number, (sequence, position)
    made = Provenance.of("tracks", dict(params), [*frames.hashes(shard), hash_of(tracks)])
    attrs = {"places": [where.get(image_id) for image_id in rows], "regions": [list(numbers[i].items()) for i in rows]}
    with RaggedWriter(out, "tracks", dtype="uint32", attrs=attrs, provenance=made) as writer:
        for image_id, row in track(list(rows.items()), len(rows), "tracks"):
            writer.append(image_id, _laid(frames, row, numbers[image_id]))


def _laid(frames: Frames, row: Row, numbers: Mapping[int, int]) -> np.ndarray:
    """Tracks uint32 [H, W] of the cells of one image."""
    regions = frames.regions(row)
    found = np.zeros(regions.grid[0] * regions.grid[1], np.uint32)
    for i in _order(frames, row, regions):
        found[regions.own(i)] = numbers.get(int(regions.numbers[i]), 0)
    return found.reshape(regions.grid)


def _order(frames: Frames, row: Row, regions: Regions) -> np.ndarray:
    """The regions of an image, the best instance last."""
    store = frames.instances(row)
    if store is None:
        return np.arange(len(regions))
    return ranked(store[row.id].scores[regions.numbers - 1])[::-1]


def _settings(params: Mapping[str, Any]) -> Tracks:
    settings: Tracks = Stage.of("tracks", params).settings
    return settings

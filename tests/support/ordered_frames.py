"""Frames in order as the stage tracks reads them: a manifest, masks, tokens and instances in any number of shards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from maskmill.images.instances import Instances, InstanceWriter
from maskmill.store.artefact import read_table, write_table
from maskmill.store.ragged import Ragged, RaggedWriter
from maskmill.tracks.run import FrameFiles, run_join, run_map, run_match

DEPTH = 8
SHOWN = 10  # pixels of a picture in a cell of its mask


def scene(grid: tuple[int, int], squares: Sequence[tuple[int, int, int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Mask uint8 and tokens float16 [h, w, DEPTH] of squares (top, left, class, colour) of three cells a side.

    Later squares cover earlier ones; the ground does not move, and no two cells of it look alike.
    """
    tokens = np.random.default_rng(0).normal(0, 0.3, (*grid, DEPTH))
    mask = np.zeros(grid, np.uint8)
    for top, left, value, colour in squares:
        mask[top : top + 3, left : left + 3] = value
        own = np.random.default_rng(colour).normal(0, 0.3, (3, 3, DEPTH))
        own[..., colour % DEPTH] += 3
        tokens[top : top + 3, left : left + 3] = own
    return mask, tokens.astype(np.float16)


def write(
    folder: Path,
    masks: Sequence[np.ndarray],
    tokens: Sequence[np.ndarray] | None = None,
    found: Sequence[Instances] | None = None,
    cuts: Sequence[int] = (),
    ids: Sequence[str] | None = None,
) -> None:
    """The frames of one folder, `film/00` and so on; `cuts`: where another shard begins."""
    names = list(ids) if ids is not None else [f"film/{i:02d}" for i in range(len(masks))]
    shards = [f"s{np.searchsorted(cuts, i, side='right')}" for i in range(len(masks))]
    body: dict[str, Any] = {
        "id": names, "path": [f"/photos/{i}.png" for i in names], "width": [SHOWN * m.shape[1] for m in masks],
        "height": [SHOWN * m.shape[0] for m in masks], "shard": shards,
        "label": pa.array([None] * len(names), pa.string()),
    }  # fmt: skip
    write_table(folder / "manifest.parquet", pa.table(body))
    for shard in sorted(set(shards)):
        mine = [i for i, s in enumerate(shards) if s == shard]
        attrs = {"clusters": 6, "ignore": 255}
        with RaggedWriter(folder / f"masks/{shard}.zarr", "masks", dtype="uint8", attrs=attrs) as out:
            for i in mine:
                out.append(names[i], masks[i])
        if tokens is not None:
            with RaggedWriter(folder / f"features/{shard}.zarr", "features", depth=tokens[0].shape[2]) as store:
                for i in mine:
                    store.append(names[i], tokens[i])
        if found is not None:
            with InstanceWriter(folder / f"instances/{shard}.zarr", {"clusters": 6}) as writer:
                for i in mine:
                    writer.append(names[i], found[i])


def follow(folder: Path, **params: Any) -> list[dict[str, Any]]:
    """All jobs of the stage; the rows of tracks.parquet."""
    body = {"order": "folder"} | params
    shards = sorted(path.stem for path in (folder / "masks").iterdir())

    def files(names: Sequence[str]) -> FrameFiles:
        given = [[folder / f"{kind}/{s}.zarr" for s in names if (folder / kind).exists()]
                 for kind in ("masks", "features", "instances")]  # fmt: skip
        return FrameFiles(*given)

    for shard in shards:
        regions, pairs = (folder / f"tracks/{kind}/{shard}.parquet" for kind in ("regions", "pairs"))
        run_match(files([shard]), folder / "manifest.parquet", body, shard, regions, pairs)
    tables = tuple([folder / f"tracks/{kind}/{s}.parquet" for s in shards] for kind in ("regions", "pairs"))
    out = folder / "tracks/tracks.parquet"
    run_join(files(shards), (tables[0], tables[1]), folder / "manifest.parquet", body, out)
    for shard in shards:
        store = folder / f"tracks/ids/{shard}.zarr"
        run_map(files([shard]), out, folder / "manifest.parquet", body, shard, store)
    return list(read_table(out).to_pylist())


def laid(folder: Path) -> dict[str, np.ndarray]:
    """The tracks of every cell, by image."""
    found: dict[str, np.ndarray] = {}
    for path in sorted((folder / "tracks/ids").iterdir()):
        found |= dict(Ragged(path, "tracks").images())
    return found


def tracks_of(rows: Sequence[dict[str, Any]]) -> dict[int, list[tuple[int, int]]]:
    """Track -> (position, class) of its regions."""
    found: dict[int, list[tuple[int, int]]] = {}
    for row in rows:
        found.setdefault(row["track"], []).append((row["position"], row["class"]))
    return found

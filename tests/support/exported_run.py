"""A small run as the stage export reads it."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from maskmill.export.run import ExportFiles
from maskmill.images.masks import MaskSet, ignore_value, mask_dtype
from maskmill.store.artefact import write_table
from maskmill.store.ragged import RaggedWriter

SHARDS = {"s0": ["a/one", "a/two"], "s1": ["b"]}
SIZES = {"a/one": (30, 47), "a/two": (64, 20), "b": (9, 9)}
SEGMENTS = {
    "a/one": np.array([[1, 1, 0], [0, 2, 2]], np.uint8),
    "a/two": np.zeros((3, 2), np.uint8),
    "b": np.array([[1, 2]], np.uint8),
}
# image, region, cluster, distance, score
REGIONS = [("a/one", 1, 0, 0.5, 0.9), ("a/one", 2, 2, 0.1, 0.7), ("b", 2, 0, 0.2, 0.5)]


def masks_of(clusters: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(clusters)
    ignore = ignore_value(mask_dtype(clusters))
    return {i: rng.choice([0, 1, 2, clusters, ignore], (5, 7)).astype(mask_dtype(clusters)) for i in SIZES}


def write_run(folder: Path, clusters: int = 3, step: int = 1) -> dict[str, Any]:
    """Everything export reads; the keyword arguments of `run`. step -1: each store's images the other way round."""
    shard_of = {i: shard for shard, ids in SHARDS.items() for i in ids}
    rows = {
        "id": list(SIZES), "path": [f"/photos/{i}.JPG" for i in SIZES], "width": [w for _, w in SIZES.values()],
        "height": [h for h, _ in SIZES.values()], "shard": [shard_of[i] for i in SIZES],
        "label": pa.array([None] * 3, pa.string()),
    }  # fmt: skip
    write_table(folder / "manifest.parquet", pa.table(rows))
    dtype, masks = mask_dtype(clusters), masks_of(clusters)
    attrs = {"clusters": clusters, "ignore": ignore_value(dtype)}
    for shard, ids in SHARDS.items():
        with (
            RaggedWriter(folder / f"masks/{shard}.zarr", "masks", dtype=dtype.name, attrs=attrs) as out,
            RaggedWriter(folder / f"cut/{shard}.zarr", "segments", dtype="uint8") as cut,
        ):
            for i in ids[::step]:
                out.append(i, masks[i])
                cut.append(i, SEGMENTS[i])
        mine = list(zip(*[r for r in REGIONS if r[0] in ids], strict=True))
        image, region, cluster, distance, score = (list(column) for column in mine)
        write_table(folder / f"regions/{shard}.parquet", pa.table({"image": image, "region": region, "score": score}))
        body = {"image": image, "region": region, "cluster": cluster, "distance": distance}
        write_table(folder / f"cluster/{shard}.parquet", pa.table(body))
    files = {name: [folder / name / f"{s}.{suffix}" for s in SHARDS] for name, suffix in
             {"masks": "zarr", "cut": "zarr", "cluster": "parquet", "regions": "parquet"}.items()}  # fmt: skip
    sources = ExportFiles(
        folder / "manifest.parquet", files["masks"], files["cut"], files["cluster"], files["regions"]
    )  # fmt: skip
    return {"files": sources, "params": {}, "out_folder": folder / "export", "masks": MaskSet("comus", 0, 1)}


def table_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))

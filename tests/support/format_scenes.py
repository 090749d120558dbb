"""Masks on which formats go wrong, as a run that export reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from maskmill.export.naming import Naming
from maskmill.export.run import ExportFiles
from maskmill.images.instances import Instances, InstanceWriter
from maskmill.images.masks import MaskSet, ignore_value, mask_dtype
from maskmill.store.artefact import write_table
from maskmill.store.ragged import RaggedWriter

# Names that break a line, a path, XML, YAML, JSON, Python or a colon-separated file, if they are written carelessly.
NAMES = ("road & <rail>", 'it\'s "it"', "a/b: c\\d", "# 木 🌳", "no", "{x}, %s")
CLASSES = [{"id": i, "name": name, "colour": "#804080" if i < 3 else None} for i, name in enumerate(NAMES, 1)]


def scenes() -> dict[str, np.ndarray]:
    """{id: mask uint8}: 0 background, 1..6, 255 ignore."""
    found: dict[str, np.ndarray] = {}
    ring = np.zeros((20, 23), np.uint8)
    ring[3:15, 4:18] = 1
    ring[6:12, 8:14] = 0
    found["ring"] = ring
    nested = np.full((21, 21), 2, np.uint8)
    for step, value in enumerate((0, 2, 255, 2, 1, 2, 3), 1):
        nested[step:-step, step + step // 3 : -step] = value
    found["nested"] = nested
    two = np.full((15, 17), 4, np.uint8)  # several holes, above and beside each other, one pixel apart
    two[2:4, 2:15:3] = 0
    two[5, 1:16] = 1
    two[7:12:2, 3:14:2] = 255
    found["holes"] = two
    small = np.zeros((9, 11), np.uint8)
    small[0, 0] = small[0, 10] = small[8, 0] = small[8, 10] = small[4, 5] = 5
    found["pixels"] = small
    diagonal = np.zeros((8, 8), np.uint8)
    diagonal[np.arange(8), np.arange(8)] = 1
    diagonal[np.arange(7), np.arange(1, 8)[::-1]] = 2
    found["diagonal"] = diagonal
    found["chess"] = (np.indices((7, 10)).sum(axis=0) % 2 * 6).astype(np.uint8)
    found["full"] = np.full((6, 5), 6, np.uint8)
    found["one"] = np.full((1, 1), 3, np.uint8)
    found["row"] = np.array([[1, 1, 0, 2, 255, 2, 2, 1]], np.uint8)
    found["empty"] = np.zeros((4, 6), np.uint8)
    found["void"] = np.full((4, 6), 255, np.uint8)
    rng = np.random.default_rng(7)
    found["noise"] = rng.choice([0, 1, 2, 3, 255], (31, 29)).astype(np.uint8)
    coarse = rng.choice([0, 1, 2, 3, 4, 5, 6, 255], (9, 8)).astype(np.uint8)
    found["folder/a b, 'ü'"] = coarse.repeat(37, axis=0).repeat(41, axis=1)  # runs of more than 65536 values
    return found


def write_scenes(
    folder: Path,
    masks: dict[str, np.ndarray],
    clusters: int = len(NAMES),
    suffixes: tuple[str, ...] = (".jpg",),
    found: dict[str, Instances] | None = None,
    things: int | None = None,
) -> dict[str, Any]:
    """Everything export reads, in two shards, with photos; the keyword arguments of `run`."""
    ids = sorted(masks)
    shard_of = {i: f"s{int(2 * n >= len(ids))}" for n, i in enumerate(ids)}
    paths = {i: folder / "photos" / (i + suffixes[n % len(suffixes)]) for n, i in enumerate(ids)}
    for i, path in paths.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        grey = np.zeros((*masks[i].shape, 3), np.uint8)
        Image.fromarray(grey).save(path, format="PNG" if path.suffix == ".png" else "JPEG")
    rows = {
        "id": ids, "path": [str(paths[i]) for i in ids], "width": [masks[i].shape[1] for i in ids],
        "height": [masks[i].shape[0] for i in ids], "shard": [shard_of[i] for i in ids],
        "label": pa.array([None] * len(ids), pa.string()),
    }  # fmt: skip
    write_table(folder / "manifest.parquet", pa.table(rows))
    dtype = mask_dtype(clusters)
    attrs = {"clusters": clusters, "ignore": ignore_value(dtype)} | ({} if things is None else {"things": things})
    stores: dict[str, list[Path]] = {"masks": [], "instances": []}
    for shard in sorted(set(shard_of.values())):
        mine = [i for i in ids if shard_of[i] == shard]
        stores["masks"].append(folder / f"masks/{shard}.zarr")
        with RaggedWriter(stores["masks"][-1], "masks", dtype=dtype.name, attrs=attrs) as out:
            for i in mine:
                out.append(i, masks[i].astype(dtype))
        if found is not None:
            stores["instances"].append(folder / f"instances/{shard}.zarr")
            with InstanceWriter(stores["instances"][-1], {"clusters": clusters}) as writer:
                for i in mine:
                    writer.append(i, found[i])
    files = ExportFiles(folder / "manifest.parquet", stores["masks"], instances=stores["instances"])
    keywords = {"files": files, "out_folder": folder / "export", "masks": MaskSet("kmeans", 0, 0)}
    return keywords | {"naming": Naming.of(CLASSES) if clusters == len(NAMES) else None}

"""Masks and labels as a run leaves them, for the stage evaluate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from maskmill.images.masks import ignore_value, mask_dtype
from maskmill.store.artefact import write_table
from maskmill.store.ragged import RaggedWriter


def write_run(folder: Path, images: dict[str, tuple[np.ndarray, np.ndarray | None]], clusters: int = 3) -> None:
    """Masks, labels and manifest of {id: (mask, label)}; two shards."""
    dtype, rows = mask_dtype(clusters), []
    (folder / "labels").mkdir(parents=True)
    for image_id, (mask, label) in images.items():
        height, width = label.shape if label is not None else (4 * mask.shape[0], 4 * mask.shape[1])
        path = folder / "labels" / f"{image_id}.png" if label is not None else None
        if path is not None and label is not None:
            Image.fromarray(label.astype(np.uint8)).save(path)
        rows.append((image_id, str(path), width, height, f"s{len(rows) % 2}", str(path) if path else None))
    columns = dict(zip(["id", "path", "width", "height", "shard", "label"], zip(*rows, strict=True), strict=True))
    write_table(folder / "manifest.parquet", pa.table(columns))
    attrs = {"clusters": clusters, "ignore": ignore_value(dtype)}
    for shard in ("s0", "s1"):
        with RaggedWriter(folder / f"{shard}.zarr", "masks", dtype=dtype.name, attrs=attrs) as out:
            for image_id, _, _, _, mine, _ in rows:
                if mine == shard:
                    out.append(image_id, images[image_id][0].astype(dtype))

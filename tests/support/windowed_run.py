"""Images cut into windows, and the masks of these windows cut from known ones, as the stage export reads them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from maskmill.export.run import ExportFiles
from maskmill.images.masks import MaskSet, ignore_value
from maskmill.images.raster import open_raster
from maskmill.images.view import View
from maskmill.images.windows import core, grid
from maskmill.inputs._windows import scale_of
from maskmill.store.artefact import write_table
from maskmill.store.manifest import Row
from maskmill.store.ragged import RaggedWriter

SIZE, OVERLAP = 64, 16


def views_of(path: Path, level: int = 0, size: int = SIZE, overlap: int = OVERLAP) -> list[View]:
    """The windows of a level of a file, row by row."""
    with open_raster(path) as raster:
        whole, scale = raster.facts.levels[level], scale_of(raster.facts.levels, level)
    base = View(level=level, whole=whole, scale=scale, overlap=overlap)
    return [replace(base, window=box) for box in grid(whole, size, overlap)]


def rows_of(image: str, path: Path, views: list[View], skipped: tuple[int, ...] = ()) -> list[Row]:
    """Rows of windows, without those at some places of the list."""
    found = []
    for i, view in enumerate(views):
        assert view.window is not None
        top, left, height, width = view.window
        if i not in skipped:
            name = f"{image}/y{top:07d}x{left:07d}"
            found.append(Row(name, str(path), width, height, "", None, parent=image, view=view.text()))
    return found


def mask_of(row: Row, known: np.ndarray, other: int) -> np.ndarray:
    """The part of a known mask [H, W] that a window shows, with `other` outside its core."""
    view = View.of(row.view or "")
    assert view.window is not None
    top, left, height, width = view.window
    mask = np.full((height, width), other, known.dtype)
    y, x, h, w = core(view)
    mask[y : y + h, x : x + w] = known[top + y : top + y + h, left + x : left + x + w]
    return mask


def painted(rows: list[Row], known: np.ndarray) -> np.ndarray:
    """The known mask where a row's core lies, ignore elsewhere: pixel by pixel, without the code under test."""
    found = np.full_like(known, ignore_value(known.dtype))
    for row in rows:
        view = View.of(row.view or "")
        assert view.window is not None
        top, left, _, _ = view.window
        y, x, h, w = core(view)
        box = np.s_[top + y : top + y + h, left + x : left + x + w]
        found[box] = known[box]
    return found


def write(folder: Path, rows: list[Row], masks: dict[str, np.ndarray], clusters: int, **params: Any) -> dict[str, Any]:
    """A manifest, and masks in shards of seven; the keyword arguments of `maskmill.export.run.run`."""
    rows = [replace(row, shard=f"s{i // 7}") for i, row in enumerate(sorted(rows, key=lambda row: row.id))]
    columns = ("id", "path", "width", "height", "shard", "label", "parent", "view")
    types = {"label": pa.string(), "parent": pa.string(), "view": pa.string()}
    table = {name: pa.array([getattr(row, name) for row in rows], types.get(name)) for name in columns}
    write_table(folder / "manifest.parquet", pa.table(table))
    dtype = next(iter(masks.values())).dtype
    attrs = {"clusters": clusters, "ignore": ignore_value(dtype)}
    shards = list(dict.fromkeys(row.shard for row in rows))
    for shard in shards:
        with RaggedWriter(folder / f"masks/{shard}.zarr", "masks", dtype=dtype.name, attrs=attrs) as out:
            for row in rows:
                if row.shard == shard:
                    out.append(row.id, masks[row.id])
    files = ExportFiles(folder / "manifest.parquet", [folder / f"masks/{shard}.zarr" for shard in shards])
    about = {"masks": False, "coco": False} | params
    return {"files": files, "params": about, "out_folder": folder / "export", "masks": MaskSet("kmeans", 0, 0)}

"""Many images: a job a shard makes the entries, one job puts them together. The folder is that of the single job."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import windowed_run as windowed
from exported_run import write_run
from format_scenes import scenes, write_scenes
from PIL import Image

from maskmill.errors import StoreError
from maskmill.export.run import ExportFiles, More, run, run_index, run_shard
from maskmill.images.instances import Instances
from maskmill.images.view import View
from maskmill.recipe.export import FORMATS
from maskmill.store.artefact import read_table
from maskmill.tracks.run import FrameFiles, run_join, run_map, run_match

CLASHING = ("a", "a.png/b", "a.txt/b")  # names that folders and files compete for


def tree(folder: Path) -> dict[str, bytes | str]:
    """{relative path: bytes, or the target of a link}."""
    return {
        path.relative_to(folder).as_posix(): str(path.readlink()) if path.is_symlink() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


def of_shard(files: ExportFiles, shard: str) -> ExportFiles:
    names = ("masks", "segments", "assignments", "regions", "instances", "tracks")
    return replace(files, **{n: [p for p in getattr(files, n) if Path(p).stem == shard] for n in names})


def in_parts(keywords: dict[str, Any], params: dict[str, Any], root: Path) -> Path:
    files, naming = keywords["files"], keywords.get("naming")
    for path in reversed(files.masks):
        shard = Path(path).stem
        run_shard(of_shard(files, shard), params, root / "parts" / shard, keywords["masks"], naming)
    more = More(keywords.get("scores"), keywords.get("segmenter"), naming)
    run_index(files, root / "parts", params, root / "many", keywords["masks"], more)
    return root / "many"


def same(keywords: dict[str, Any], params: dict[str, Any], root: Path) -> dict[str, bytes | str]:
    one, many = root / "one", in_parts(keywords, params, root)
    run(**keywords | {"params": params, "out_folder": one})
    expected, found = tree(one), tree(many)
    assert list(found) == list(expected)
    assert [name for name in expected if found[name] != expected[name]] == []
    return expected


def instances_of(mask: np.ndarray) -> Instances:
    """Two of every value, one of them over the other's border."""
    values = [v for v in np.unique(mask).tolist() if 0 < v < 255] or [1]
    layers = np.stack([mask == v for v in values] + [np.roll(mask == v, 1, axis=0) for v in values])
    scores = np.linspace(0.9, 0.1, len(layers)).astype(np.float32)
    return Instances(layers, np.array(values * 2, np.int32), scores)


@pytest.mark.parametrize("photos", ["none", "link", "copy"])
@pytest.mark.parametrize("suffixes", [(".jpg",), (".jpg", ".png")])
def test_every_format_in_parts(photos: str, suffixes: tuple[str, ...], tmp_path: Path) -> None:
    masks = scenes()
    small = masks["full"]
    keywords = write_scenes(tmp_path, masks | dict.fromkeys(CLASHING, small), suffixes=suffixes)
    found = same(keywords, {"formats": list(FORMATS), "photos": photos}, tmp_path)
    assert "renamed.csv" in found  # a.png is a file and a folder


@pytest.mark.parametrize("photos", ["link", "copy"])
def test_windows_in_parts_with_their_photos_and_their_whole(photos: str, tmp_path: Path) -> None:
    """Windows have no file of their own: their photos are written as the run has seen them."""
    pixels = np.random.default_rng(0).integers(0, 255, (3, 300, 260), np.uint8)
    about = {"driver": "GTiff", "height": 300, "width": 260, "count": 3, "dtype": "uint8", "photometric": "rgb"}
    place = {"crs": "EPSG:32633", "transform": rasterio.Affine(10, 0, 5e5, 0, -10, 4e6)}
    with rasterio.open(tmp_path / "map.tif", "w", **about, **place) as out:
        out.write(pixels)
    rows = windowed.rows_of("map", tmp_path / "map.tif", windowed.views_of(tmp_path / "map.tif", 0, 128, 32))
    known = np.random.default_rng(1).integers(1, 4, (300, 260)).astype(np.uint8)
    masks = {row.id: windowed.mask_of(row, known, 1) for row in rows}
    keywords = windowed.write(tmp_path, rows, masks, 3)
    found = same(keywords, {"formats": list(FORMATS), "photos": photos}, tmp_path)
    last = rows[-1]
    with Image.open(tmp_path / f"many/voc/JPEGImages/{last.id}.png") as image:
        top, left, height, width = View.of(last.view or "").window or ()
        np.testing.assert_array_equal(
            np.asarray(image), pixels.transpose(1, 2, 0)[top : top + height, left : left + width]
        )
    assert "geotiff/map.tif" in found


def test_instances_in_parts(tmp_path: Path) -> None:
    masks = scenes()
    found = {i: instances_of(mask) for i, mask in masks.items()}
    for things in (None, 4):
        keywords = write_scenes(tmp_path / str(things), masks, found=found, things=things)
        same(keywords, {"formats": list(FORMATS)}, tmp_path / str(things))


def test_regions_in_parts(tmp_path: Path) -> None:
    found = same(write_run(tmp_path) | {"naming": None}, {}, tmp_path)
    assert "coco_regions.json" in found


def test_a_damaged_or_missing_part_is_named(tmp_path: Path) -> None:
    keywords = write_scenes(tmp_path, scenes())
    in_parts(keywords, {}, tmp_path)
    entries = tmp_path / "parts/s1/entries"
    body = bytearray(entries.read_bytes())
    body[-3] ^= 1
    entries.write_bytes(body)
    for name in ("damaged", "missing"):
        with pytest.raises(StoreError, match="parts/s1"):
            run_index(keywords["files"], tmp_path / "parts", {}, tmp_path / name, keywords["masks"], More())
        assert not (tmp_path / name).exists()
        (tmp_path / "parts/s1/part.json").unlink(missing_ok=True)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "gone"])
def test_a_damaged_mask_of_a_part_is_named(damage: str, tmp_path: Path) -> None:
    """It would become a file of the export, unread."""
    keywords = write_scenes(tmp_path, scenes())
    in_parts(keywords, {}, tmp_path)
    mask = next(path for path in sorted((tmp_path / "parts/s1/files").rglob("*")) if path.is_file())
    body = bytearray(mask.read_bytes())
    mask.unlink()  # the export has the same file
    if damage == "flipped":
        body[-5] ^= 1
    if damage != "gone":
        mask.write_bytes(body if damage == "flipped" else body[:-9])
    with pytest.raises(StoreError, match=rf"^{mask}: damaged or gone; delete {tmp_path}/parts/s1 and run"):
        run_index(keywords["files"], tmp_path / "parts", {}, tmp_path / "new", keywords["masks"], More())
    assert not (tmp_path / "new").exists()


def test_tracks_in_parts(tmp_path: Path) -> None:
    masks = {name: scenes()[name] for name in ("ring", "holes", "nested")}
    keywords = write_scenes(tmp_path, masks)
    params = {"order": "folder", "flow": "none", "match": "overlap", "min_area": 0.0}
    stores = [Path(path) for path in keywords["files"].masks]
    tables = tuple([tmp_path / f"{kind}/{path.stem}.parquet" for path in stores] for kind in ("own", "pairs"))
    manifest = keywords["files"].manifest
    for i, path in enumerate(stores):
        run_match(FrameFiles([path]), manifest, params, path.stem, tables[0][i], tables[1][i])
    run_join(FrameFiles(stores), (tables[0], tables[1]), manifest, params, tmp_path / "tracks.parquet")
    ids = [tmp_path / f"ids/{path.stem}.zarr" for path in stores]
    for path, out in zip(stores, ids, strict=True):
        run_map(FrameFiles([path]), tmp_path / "tracks.parquet", manifest, params, path.stem, out)
    keywords["files"] = replace(keywords["files"], tracks=ids)
    body = json.loads(bytes(same(keywords, {}, tmp_path)["coco_tracks.json"]))
    assert [(image["sequence"], image["position"]) for image in body["images"]] == [(".", 0), (".", 1), (".", 2)]
    rows = read_table(tmp_path / "tracks.parquet").to_pylist()
    names = {image["id"]: image["maskmill_id"] for image in body["images"]}
    found = {(names[a["image_id"]], a["track_id"]): (a["category_id"], a["area"]) for a in body["annotations"]}
    assert found == {(row["image"], row["track"]): (row["class"], row["area"]) for row in rows}

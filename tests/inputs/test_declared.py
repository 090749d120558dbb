"""What is declared beside pixels: nodata of labels, chunks of Zarr folders, and how large a raster may be."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from input_files import fails, picture, read
from large_files import write_tiff
from PIL import Image

from maskmill.evaluate.labelled import OUTSIDE, read_label
from maskmill.images import listing
from maskmill.images.labels import VOID
from maskmill.images.listing import counted_fingerprint, listing_fingerprint
from maskmill.images.raster import Facts
from maskmill.images.rendering import Rendering
from maskmill.inputs._check import check_file
from maskmill.inputs._range import decide, rounded
from maskmill.recipe.inputs import Inputs

RNG = np.random.default_rng(8)


@pytest.mark.parametrize(("kind", "gap"), [("int16", -9999), ("uint8", 254), ("uint16", 65534), ("uint8", -9999)])
@pytest.mark.parametrize("window", [None, {"size": 64, "overlap": 16}])
def test_where_a_label_declares_nodata_it_is_void(
    kind: str, gap: int, window: dict[str, int] | None, tmp_path: Path
) -> None:
    ids = RNG.integers(1, 4, (90, 80)).astype(kind)
    wanted = ids.astype(np.int32)
    if np.iinfo(kind).min <= gap:
        ids[:30, 10:], wanted[:30, 10:] = gap, VOID
    write_tiff(tmp_path / "labels/a.tif", ids, nodata=gap if np.iinfo(kind).min <= gap else None)
    if np.iinfo(kind).min > gap:  # what the type cannot hold is of no pixel; rasterio does not write it
        tags = [(42113, 2, 0, str(gap), True)]
        tifffile.imwrite(tmp_path / "labels/a.tif", ids, photometric="minisblack", extratags=tags)
    picture(tmp_path / "images/a.png", size=(90, 80))
    (tmp_path / "out").mkdir()
    manifest = read(tmp_path / "out", tmp_path / "images", tmp_path / "labels", window=window)
    counts = {str(i): int(n) for i, n in zip(*np.unique(wanted, return_counts=True), strict=True)}
    assert json.loads((tmp_path / "out/classes.json").read_text())["pixels"] == counts
    for row in manifest.rows:
        label = read_label(row)
        top, left = (0, 0) if row.id == "a" else (int(row.id[3:10]), int(row.id[11:18]))
        own = wanted[top : top + row.height, left : left + row.width]
        assert (label == own)[label != OUTSIDE].all()


def test_a_label_without_nodata_is_what_it_was(tmp_path: Path) -> None:
    ids = np.array([[0, 254, 255, 7]] * 8, np.uint8)
    (tmp_path / "labels").mkdir()
    Image.fromarray(ids).save(tmp_path / "labels/a.tif")
    picture(tmp_path / "images/a.png", size=(8, 4))
    (tmp_path / "out").mkdir()
    (row,) = read(tmp_path / "out", tmp_path / "images", tmp_path / "labels").rows
    assert (read_label(row) == ids).all()


def store(path: Path) -> zarr.Array:
    return zarr.create_array(path, data=np.zeros((64, 64), np.uint16), chunks=(16, 16))


def test_chunks_that_are_written_anew_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = store(tmp_path / "in/a.zarr")
    picture(tmp_path / "in/b.png")
    table = tmp_path / "t.csv"
    table.write_text("path\nin/a.zarr\n")
    monkeypatch.chdir(tmp_path)
    sources = [str(tmp_path / "in"), "in", "in/a.zarr", str(tmp_path / "in/*"), "in/*.zarr", str(table)]

    def prints() -> list[str]:
        return [listing_fingerprint(source, None) for source in sources]

    for limit in (listing.STORE_FILES, 3):
        monkeypatch.setattr(listing, "STORE_FILES", limit)
        seen = [prints()]
        for value in (7, 8):
            array[:4, :4] = value
            seen.append(prints())
        (tmp_path / "in/a.zarr/c/3/3").unlink(missing_ok=True)
        array[60:, 60:] = 9
        seen.append(prints())
        assert prints() == seen[-1]
        for place in range(len(sources)):
            assert len({each[place] for each in seen}) == len(seen), (limit, sources[place])
        array[60:, 60:] = 0
    assert counted_fingerprint("in", None)[1] == 2


def test_a_store_that_links_to_itself_or_goes_has_a_fingerprint(tmp_path: Path) -> None:
    store(tmp_path / "a.zarr")
    (tmp_path / "a.zarr/round").symlink_to(tmp_path)
    before = listing_fingerprint(str(tmp_path), None)
    os.chmod(tmp_path / "a.zarr", 0o755)
    assert listing_fingerprint(str(tmp_path), None) == before


def scene(path: Path, side: int = 100, channels: int = 13) -> str:
    write_tiff(path, RNG.integers(0, 4000, (side, side, channels)).astype(np.uint16))
    return str(path)


def test_the_bytes_of_all_channels_are_bounded_without_windows(tmp_path: Path) -> None:
    path = scene(tmp_path / "images/a.tif")  # 260 kB of values
    settings = Inputs(max_pixels=40_000, range="dtype")  # 240 kB
    reason = check_file(path, settings, decide([path], settings))
    assert isinstance(reason, str)
    assert "100x100 pixels of 13 channels of uint16 are 0.00026 GB, 0.00024 GB (6 bytes a pixel of 0.04 mill" in reason
    assert "set inputs.window" in reason
    for more in ({"max_pixels": 44_000}, {"max_pixels": 40_000, "window": {"size": 64}}):
        settings = Inputs.model_validate({"range": "dtype", **more})
        assert not isinstance(check_file(path, settings, decide([path], settings)), str)
    (tmp_path / "out").mkdir()
    fails(tmp_path / "out", tmp_path / "images", "13 channels of uint16", max_pixels=40_000, range="dtype")


@pytest.mark.parametrize(("pages", "most"), [("first", 2), ("all", 2), ("max", 4), ("mean", 10)])
def test_pages_that_are_joined_are_held_twice(pages: str, most: int, tmp_path: Path) -> None:
    path = str(tmp_path / "a.tif")
    tifffile.imwrite(path, RNG.integers(0, 9, (3, 60, 60)).astype(np.uint16), photometric="minisblack")
    least = -(-60 * 60 * most // 6)
    fits = max(least, 3600)
    assert not isinstance(check_file(path, Inputs(max_pixels=fits, pages=pages), Rendering(pages=pages)), str)
    assert isinstance(check_file(path, Inputs(max_pixels=fits - 1, pages=pages), Rendering(pages=pages)), str)


def test_one_more_file_of_few_rarely_moves_the_range(tmp_path: Path) -> None:
    """All of up to 64 files are in the sample, so each of them moves the percentiles."""
    paths = []
    for i in range(21):
        path = tmp_path / f"{i:02d}.tif"
        bright = RNG.normal(1500, 120)
        tifffile.imwrite(path, RNG.normal(bright, 300, (48, 48)).clip(0).astype(np.uint16), photometric="minisblack")
        paths.append(str(path))
    every = decide(paths, Inputs()).ranges
    same = [decide([path for path in paths if path != left], Inputs()).ranges == every for left in paths]
    assert sum(same) >= 0.7 * len(same)


@pytest.mark.parametrize(
    ("kind", "ends", "wanted"),
    [
        ("uint16", (312, 4870), (300, 4900)),
        ("uint16", (300, 4900), (300, 4900)),
        ("uint16", (0, 65535), (0, 65535)),
        ("uint16", (100, 199), (100, 199)),
        ("int16", (-1995.4, 2091), (-2000, 2100)),
        ("float32", (0.0, 1.0), (0, 1)),
        ("float32", (0.1, 0.3), (0.1, 0.3)),
        ("float32", (-0.123456, 0.654321), (-0.13, 0.66)),
        ("float64", (1e9, 1e9 + 1), (1e9, 1e9 + 1)),
        ("float64", (-1e308, 1e308), (-1e308, 1e308)),
        ("float64", (3e-5, 7.21e-5), (3e-5, 7.3e-5)),
    ],
)
def test_ends_are_rounded_outwards(kind: str, ends: tuple[float, float], wanted: tuple[float, float]) -> None:
    assert rounded(*ends, Facts("tiff", ((8, 8),), 1, np.dtype(kind))) == wanted

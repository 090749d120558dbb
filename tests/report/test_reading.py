"""The report says how files that are no photos were read, and shows one of each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from maskmill.images import sample
from maskmill.inputs.run import Outputs, run
from maskmill.report._reading import read
from maskmill.report._recipe import ReportPhotos


def made(folder: Path, **settings: object) -> sample.Sample:
    out = Outputs(folder / "m.parquet", folder / "r.csv", folder / "c.json")
    run(str(folder / "in"), None, settings, out, 1, folder / "frames")
    return sample.read(out.manifest, 4)


def test_one_line_for_each_way(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for i in range(3):
        values = np.full((24, 32), 1000 * (i + 1), np.uint16)
        tifffile.imwrite(tmp_path / f"in/{i}.tif", values, photometric="minisblack")
    tifffile.imwrite(tmp_path / "in/f.tif", np.eye(24, dtype=np.float32), photometric="minisblack")
    Image.new("RGB", (32, 24)).save(tmp_path / "in/photo.png")
    found = made(tmp_path)
    photos = ReportPhotos(found)
    ways = read(found, photos)
    assert [(way.channels, way.range, way.count) for way in ways] == [
        ("as declared", "1000 to 3000", 3),
        ("as declared", "0 to 1", 1),
    ]
    assert {way.part for way in ways} == {"all of it"}
    assert {way.file for way in ways} == {"0.tif", "f.tif"}
    assert all(way.uri.startswith("data:image/") for way in ways)
    assert not photos.broken


def test_nothing_where_all_are_photos(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    Image.new("RGB", (32, 24)).save(tmp_path / "in/photo.png")
    found = made(tmp_path)
    assert read(found, ReportPhotos(found)) == []


def test_windows_pages_and_ranges_of_channels_are_said(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    values = np.zeros((40, 50, 3), np.uint16)
    values[..., 0], values[:, 25:, 2] = 7, 9
    tifffile.imwrite(tmp_path / "in/map.tif", values, photometric="minisblack", planarconfig="contig")
    window = {"size": 24, "overlap": 4, "skip_empty": False}
    (way,) = read(found := made(tmp_path, window=window, range=[0, 9]), ReportPhotos(found))
    assert (way.part, way.range, way.count) == ("windows of 24 x 24", "0 to 9", 6)
    tifffile.imwrite(tmp_path / "in/map.tif", np.zeros((3, 40, 50), np.uint8), photometric="minisblack")
    (way,) = read(found := made(tmp_path, pages="all"), ReportPhotos(found))
    assert (way.part, way.count) == ("a page or a composite", 3)

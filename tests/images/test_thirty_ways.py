"""One picture saved in thirty ways is one picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from thirty_ways import Writer, colour_ways, grey_ways, picture

from maskmill.images.decode import decode
from maskmill.images.photos import read_shown
from maskmill.images.raster import open_raster, render
from maskmill.images.view import View
from maskmill.inputs._check import check_file
from maskmill.inputs._range import decide
from maskmill.recipe.inputs import Inputs
from maskmill.store.manifest import Row

GREY, COLOUR = list(grey_ways()), list(colour_ways())


def shown(path: Path, settings: Inputs | None = None) -> tuple[np.ndarray, np.ndarray | None]:
    """(uint8 [H, W, 3], valid) of a data set of one file, read as every stage reads it."""
    settings = settings or Inputs()
    parts = check_file(str(path), settings, decide([str(path)], settings))
    assert not isinstance(parts, str), parts
    (part,) = parts
    row = Row("a", str(path), part.width, part.height, "s", None, None, part.bytes, part.crc32c, None, part.view)
    found = read_shown(row)
    return found.pixels, found.valid


@pytest.mark.parametrize(("name", "file", "write"), GREY, ids=[name for name, *_ in GREY])
def test_grey(name: str, file: str, write: Writer, tmp_path: Path) -> None:
    write(tmp_path / file)
    pixels, valid = shown(tmp_path / file)
    assert valid is None
    assert np.abs(pixels.astype(int) - picture()[..., :1]).max() <= 1


@pytest.mark.parametrize(("name", "file", "write"), COLOUR, ids=[name for name, *_ in COLOUR])
def test_colour(name: str, file: str, write: Writer, tmp_path: Path) -> None:
    write(tmp_path / file)
    pixels, valid = shown(tmp_path / file)
    wanted, seen = picture().astype(int), np.ones(pixels.shape[:2], bool) if valid is None else valid
    assert (valid is not None) == (name == "GeoTIFF nodata")
    assert np.abs(pixels.astype(int) - wanted)[seen].max() <= 1
    assert seen.mean() > 0.97


@pytest.mark.parametrize("codec", ["jpeg2000", "lerc", "jpegxl"])
def test_eight_bits_in_codecs_that_pillow_lacks(codec: str, tmp_path: Path) -> None:
    image = picture()
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="rgb", compression=codec)
    assert np.abs(shown(tmp_path / "a.tif")[0].astype(int) - image).max() <= 1


CASES = {
    "planar": {"photometric": "rgb", "planarconfig": "separate", "rowsperstrip": 7},
    "tiled": {"photometric": "rgb", "tile": (32, 32), "compression": "zlib"},
    "turned": {"photometric": "rgb", "extratags": [(274, 3, 1, 6, True)]},
    "cmyk": {"photometric": "separated"},
    "grey": {"photometric": "miniswhite", "compression": "zlib", "tile": (32, 32)},
    "one bit": {"photometric": "miniswhite"},
}


@pytest.mark.parametrize("name", CASES)
def test_windows_of_eight_bits_are_those_of_the_whole_photo(name: str, tmp_path: Path) -> None:
    values = picture()
    if name == "cmyk":
        values = np.concatenate([values, values[..., :1] // 3], axis=-1)
    if name in ("grey", "one bit"):
        values = values[..., 0] > 127 if name == "one bit" else values[..., 0]
    values = values.transpose(2, 0, 1) if name == "planar" else values
    options = {"extrasamples": []} if name == "cmyk" else {}
    tifffile.imwrite(tmp_path / "a.tif", values, **CASES[name], **options)
    whole = decode(tmp_path / "a.tif")
    with open_raster(tmp_path / "a.tif") as raster:
        assert raster.facts.size == whole.shape[:2]
        view = View(window=(11, 17, 40, 50))
        part = render(raster.read(view.window), raster.facts, view).pixels
    assert (part == whole[11:51, 17:67]).all()

"""One picture saved in thirty ways is one picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from thirty_ways import Writer, colour_ways, grey_ways, picture

from maskmill.images.photos import read_shown
from maskmill.inputs._check import check_file
from maskmill.inputs._range import decide
from maskmill.recipe.sections import Inputs
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

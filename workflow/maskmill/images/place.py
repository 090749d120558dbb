"""Where the mask of an image lies: its reference system and the size of its pixels, at the level that was segmented."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from maskmill.errors import InputError
from maskmill.images.stitching import Canvas

if TYPE_CHECKING:
    from maskmill.images.raster import Facts

Affine = tuple[float, float, float, float, float, float]


@dataclass(frozen=True)
class Place:
    """Of a mask.

    Attributes:
        crs: coordinate reference system as WKT, or None. transform: affine (a, b, c, d, e, f) with
            x = a * column + b * row + c and y = d * column + e * row + f, whole numbers are corners of pixels; or None.
        gcps: ground control points (row, column, x, y, z), where the file has these in place of a transform.
        microns: height and width of a pixel, or None. scale: pixels of level 0 in a pixel, along y and x.
    """

    crs: str | None = None
    transform: Affine | None = None
    gcps: tuple[tuple[float, float, float, float, float], ...] = ()
    microns: tuple[float, float] | None = None
    scale: tuple[float, float] = (1.0, 1.0)

    @property
    def on_earth(self) -> bool:
        """Whether a reference system and a transform are known."""
        return self.crs is not None and self.transform is not None


def place_of(canvas: Canvas) -> Place:
    """Where the mask of a canvas lies, from the header of its file.

    Raises:
        InputError: the file cannot be read; names it.
    """
    from maskmill.images.raster import open_raster  # which loads the libraries of many formats

    try:
        with open_raster(canvas.path) as raster:
            return placed(raster.facts, (1.0, 1.0) if canvas.view is None else canvas.view.scale)
    except (InputError, OSError) as error:
        raise InputError(
            f"{canvas.path}: {error}; its header says where its mask lies: restore the file and run snakemake again"
        ) from None


def placed(facts: Facts, scale: tuple[float, float]) -> Place:
    """The place of a mask of all of a level with so many pixels of level 0 in one of its own, along y and x.

    A file that is turned for display lies on the Earth as it is stored, not as it is shown: its mask has no place.
    """
    geo = facts.geo if facts.orientation == 1 else None
    microns = None if facts.microns is None else (facts.microns[0] * scale[0], facts.microns[1] * scale[1])
    if geo is None:
        return Place(microns=microns, scale=scale)
    gcps = tuple((row / scale[0], column / scale[1], x, y, z) for row, column, x, y, z in geo.gcps)
    return Place(geo.crs, None if geo.transform is None else scaled(geo.transform, scale), gcps, microns, scale)


def scaled(transform: Affine, scale: tuple[float, float]) -> Affine:
    """The transform of a level; of level 0 (scale 1) it is the same to the bit."""
    a, b, c, d, e, f = transform
    down, right = scale
    return a * right, b * down, c, d * right, e * down, f

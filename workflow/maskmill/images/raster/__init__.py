"""Image files of any kind: what their headers declare, windows of their values, and how these become a picture."""

from maskmill.images.raster.facts import Facts, Geo, Raster, Shown
from maskmill.images.raster.kept import kept_raster
from maskmill.images.raster.opening import open_raster, read_raw, values_bytes, values_crc32c
from maskmill.images.raster.render import render

__all__ = [
    "Facts",
    "Geo",
    "Raster",
    "Shown",
    "kept_raster",
    "open_raster",
    "read_raw",
    "render",
    "values_bytes",
    "values_crc32c",
]

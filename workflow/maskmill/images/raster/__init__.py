"""Image files of any kind: what their headers declare, windows of their values, and how these become a picture."""

from maskmill.images.raster.facts import Facts, Geo, Raster, Shown
from maskmill.images.raster.opening import open_raster, read_raw, read_shown, values_bytes, values_crc32c
from maskmill.images.raster.render import render

__all__ = [
    "Facts",
    "Geo",
    "Raster",
    "Shown",
    "open_raster",
    "read_raw",
    "read_shown",
    "render",
    "values_bytes",
    "values_crc32c",
]

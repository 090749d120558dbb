"""Nodata and the place on the Earth in the tags of a TIFF whose pixels GDAL cannot read (GeoTIFF 1.1, OGC 19-008r4)."""

from __future__ import annotations

import sys
from functools import cache
from typing import Any

from maskmill.errors import InputError
from maskmill.images.raster.facts import Geo
from maskmill.images.raster.gdal import quiet

_NODATA, _SCALE, _TIEPOINTS, _MATRIX = 42113, 33550, 33922, 34264
_CODES = ("ProjectedCSTypeGeoKey", "GeographicTypeGeoKey")  # of EPSG: the reference system of a map, or of the globe
_OWN = 32767  # user-defined: it has no code
_POINT = 2  # GTRasterTypeGeoKey: coordinates are those of the middles of pixels
Affine = tuple[float, float, float, float, float, float]


def gap_of(page: Any) -> float | None:
    """The value of a page of tifffile that means no measurement (GDAL_NODATA); None where it declares none."""
    text = page.tags.valueof(_NODATA)
    try:
        return None if text is None else float(str(text).strip("\0 "))
    except ValueError:
        return None


def geo_of(page: Any) -> Geo | None:
    """Where a page of tifffile lies; None where it does not say so. What is not understood is said on stderr."""
    transform = _transform(page)
    if transform is None and 34735 not in page.tags:
        return None
    keys = _keys(page)
    if transform is not None and int(keys.get("GTRasterTypeGeoKey", 1)) == _POINT:
        a, b, c, d, e, f = transform
        transform = a, b, c - (a + b) / 2, d, e, f - (d + e) / 2
    crs = _crs(keys)
    if transform is None and crs is None:
        return None
    return Geo(crs, transform)


def _keys(page: Any) -> dict[str, Any]:
    try:
        return dict(page.geotiff_tags or {})
    except Exception:  # of damaged keys: tifffile has no exception of its own for them
        return {}


def _transform(page: Any) -> Affine | None:
    """The affine of pixel corners (or middles): by its matrix, or by one tie point and the size of a pixel."""
    matrix, scale, points = (page.tags.valueof(tag) for tag in (_MATRIX, _SCALE, _TIEPOINTS))
    if matrix is not None and len(matrix) == 16:
        a, b, _, c, d, e, _, f = (float(value) for value in matrix[:8])
        return a, b, c, d, e, f
    if scale is None or points is None or len(scale) < 2 or len(points) != 6:
        return None
    column, row, _, x, y, _ = (float(value) for value in points)
    width, height = float(scale[0]), float(scale[1])
    return width, 0.0, x - column * width, 0.0, -height, y + row * height


def _crs(keys: dict[str, Any]) -> str | None:
    """WKT of the code of EPSG."""
    from rasterio.crs import CRS

    code = next((int(keys[name]) for name in _CODES if name in keys), _OWN)
    if code != _OWN:
        try:
            with quiet():
                return str(CRS.from_epsg(code).to_wkt())
        except InputError:
            pass
    _say()
    return None


@cache
def _say() -> None:
    """Once a process: a file is opened for every picture of it."""
    print(
        "a GeoTIFF in a compression that GDAL lacks has a reference system without a code of EPSG: it is not known, "
        "and what is exported has only its coordinates",
        file=sys.stderr,
    )

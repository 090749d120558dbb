"""GeoJSON: a polygon with holes of every connected part of every class, with its name and colour.

`properties.classification` is what QuPath reads, `class` and `colour` are for QGIS and everything else. On the Earth
the coordinates are those of the source's reference system, which the member `crs` names as GeoJSON 2008 has it: QGIS,
GDAL and GeoPandas read it. (RFC 7946 wants longitude and latitude; moved corners would not be those of pixels any
more.) `maskmill` holds the system as WKT too. Elsewhere coordinates are pixels of the full resolution, the corner of
the image is 0, 0, as QuPath has it. The background and ignore have no polygon.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from maskmill.export._outlines import outlines
from maskmill.export.formats._whole import WholeFormat, WholeMask
from maskmill.images.masks import ignore_value
from maskmill.images.place import Place
from maskmill.images.stitching import bands

_PIXELS = 1 << 22  # of a band


class GeoJson(WholeFormat):
    """`<id>.geojson`."""

    suffix: ClassVar[str] = ".geojson"

    def write(self, mask: WholeMask, path: Path) -> None:
        import shapely

        whole, place = mask.levels.whole, mask.place
        move = _coordinates(place)
        rows = max(64, _PIXELS // whole.shape[1])
        found = outlines(bands(whole, rows), (0, ignore_value(whole.dtype)), self.facts.tolerance)
        with path.open("x", encoding="utf-8", newline="\n") as out:
            out.write(self._head(mask))
            for number, (value, polygon) in enumerate(found):
                moved = shapely.orient_polygons(shapely.transform(polygon, move))
                geometry = {"type": "Polygon", "coordinates": [_ring(r) for r in (moved.exterior, *moved.interiors)]}
                body = {"type": "Feature", "geometry": geometry, "properties": self._properties(value)}
                out.write(",\n" if number else "\n")
                out.write(json.dumps(body, separators=(",", ":"), ensure_ascii=False))
            out.write("\n]}\n")

    def _head(self, mask: WholeMask) -> str:
        """The collection up to its features."""
        about: dict[str, Any] = {"id": mask.id, "title": self.facts.title, "tolerance": self.facts.tolerance}
        body: dict[str, Any] = {"type": "FeatureCollection", "name": mask.id}
        if mask.place.on_earth:
            about["crs_wkt"] = mask.place.crs
            if (name := _urn(mask.place.crs or "")) is not None:
                body["crs"] = {"type": "name", "properties": {"name": name}}
            else:
                self.note("the reference system has no EPSG code: written as WKT only, set it by hand in QGIS")
        body["maskmill"] = about
        return json.dumps(body, ensure_ascii=False)[:-1] + ', "features": ['

    def _properties(self, value: int) -> dict[str, Any]:
        naming = self.facts.naming
        name = naming.names[value]
        return {
            "objectType": "annotation",
            "classification": {"name": name, "color": naming.colours[value].tolist()},
            "class": name,
            "value": value,
            "colour": naming.hexadecimal(value),
        }


def _urn(crs: str) -> str | None:
    """The name of a reference system for the member `crs`, of one that EPSG knows."""
    from rasterio.crs import CRS

    code = CRS.from_wkt(crs).to_epsg(confidence_threshold=100)
    return None if code is None else f"urn:ogc:def:crs:EPSG::{code}"


def _coordinates(place: Place) -> Callable[[np.ndarray], np.ndarray]:
    """Takes corners [n, 2] (x, y) in pixels of the mask to coordinates."""
    down, right = place.scale
    if not place.on_earth or place.transform is None:
        return lambda points: points * (right, down)
    a, b, c, d, e, f = place.transform
    return lambda points: np.stack(
        [a * points[:, 0] + b * points[:, 1] + c, d * points[:, 0] + e * points[:, 1] + f], axis=1
    )


def _ring(ring: Any) -> list[list[float]]:
    """Corners of a closed ring; whole numbers without a point."""
    import shapely

    points = shapely.get_coordinates(ring)
    whole = np.array_equal(points, np.rint(points)) and np.abs(points).max() < 2**53
    return (points.astype(np.int64) if whole else points).tolist()

"""Cloud-optimised GeoTIFF: tiles of 512 pixels, overviews, colours and class names, on the Earth where the source is.

The reference system and the transform are those of the source, to the bit; of a coarser level the transform is scaled.
Where GeoTIFF keys cannot hold a reference system, it is written as WKT beside the file. 255 or 65535 is `nodata`.

Class names are in the band's metadata (`class_<value>`), and in `<file>.aux.xml` as category names, which GDAL and QGIS
show in a legend; GeoTIFF itself has no place for these.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, ClassVar
from xml.sax.saxutils import escape

from maskmill.export.formats._whole import WholeFormat, WholeMask
from maskmill.images.masks import ignore_value
from maskmill.images.palette import IGNORE
from maskmill.images.place import Place
from maskmill.images.stitching import bands

TILE = 512
_CACHE = 64  # megabytes that GDAL may keep of blocks; its default grows with the machine


class GeoTiff(WholeFormat):
    """`<id>.tif` and `<id>.tif.aux.xml`."""

    suffix: ClassVar[str] = ".tif"

    def write(self, mask: WholeMask, path: Path) -> None:
        import rasterio
        from rasterio.errors import NotGeoreferencedWarning
        from rasterio.shutil import copy

        place = mask.place
        if not place.on_earth and not place.gcps:
            self.note("the file has no reference system or transform: written without, in pixels")
        draft = path.with_name(path.name + ".draft.tif")
        with rasterio.Env(GDAL_CACHEMAX=_CACHE, GDAL_PAM_ENABLED="NO"), warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            self._draft(mask, draft)
            copy(
                str(draft), str(path), driver="COG", COMPRESS="DEFLATE", LEVEL="6", BLOCKSIZE=str(TILE),
                OVERVIEWS="FORCE_USE_EXISTING", BIGTIFF="IF_SAFER",
            )  # fmt: skip
            beside = self._beside(path, place)
        draft.unlink()
        path.with_name(path.name + ".aux.xml").write_text(beside, encoding="utf-8")

    def _draft(self, mask: WholeMask, path: Path) -> None:
        """A tiled GeoTIFF with overviews; COG wants all of it before the first byte is written."""
        import rasterio
        from rasterio.enums import Resampling
        from rasterio.windows import Window

        whole = mask.levels.whole
        height, width = whole.shape
        about = {
            "driver": "GTiff", "height": height, "width": width, "count": 1, "dtype": whole.dtype.name,
            "nodata": ignore_value(whole.dtype), "tiled": True, "blockxsize": TILE, "blockysize": TILE,
            "compress": "deflate", "zlevel": 1, "bigtiff": "if_safer",
        }  # fmt: skip
        with rasterio.open(str(path), "w", **about, **_georeference(mask.place)) as out:
            out.write_colormap(1, self._colours(whole.dtype))
            out.update_tags(**self._tags(mask.place))
            out.update_tags(1, **{f"class_{value}": name for value, name in self.names().items()})
            for top, band in bands(whole, TILE):
                out.write(band, 1, window=Window(0, top, width, len(band)))
        factors = [2**i for i in range(1, 31) if max(height, width) > TILE * 2 ** (i - 1)]
        if factors:
            with rasterio.open(str(path), "r+") as out:
                out.build_overviews(factors, Resampling.mode)

    def _colours(self, dtype: Any) -> dict[int, tuple[int, int, int, int]]:
        known = {value: (*map(int, rgb), 255) for value, rgb in enumerate(self.facts.naming.colours)}
        return {**known, ignore_value(dtype): (*IGNORE, 0)}  # type: ignore[dict-item]

    def _tags(self, place: Place) -> dict[str, str]:
        tags = {"TIFFTAG_SOFTWARE": "maskmill", "TIFFTAG_IMAGEDESCRIPTION": self.facts.title}
        if place.microns is not None and not place.on_earth:
            down, right = (10_000 / side for side in place.microns)
            tags |= {"TIFFTAG_YRESOLUTION": f"{down!r}", "TIFFTAG_XRESOLUTION": f"{right!r}"}
            tags["TIFFTAG_RESOLUTIONUNIT"] = "3"  # pixels in a centimetre
        return tags

    def _beside(self, path: Path, place: Place) -> str:
        """The text of `.aux.xml`: category names, and what the GeoTIFF could not hold of the reference system."""
        import rasterio
        from rasterio.crs import CRS

        with rasterio.open(str(path)) as made:
            kept = made.crs if made.crs is not None else (made.gcps[1] if place.gcps else None)
        wanted = None if place.crs is None else CRS.from_wkt(place.crs)
        lost = wanted is not None and (kept is None or kept.to_wkt() != wanted.to_wkt())
        system = f"  <SRS>{escape(place.crs or '')}</SRS>\n" if lost else ""
        names = "".join(f"      <Category>{escape(name)}</Category>\n" for name in self.names().values())
        return (
            f'<PAMDataset>\n{system}  <PAMRasterBand band="1">\n    <CategoryNames>\n{names}    </CategoryNames>\n'
            "  </PAMRasterBand>\n</PAMDataset>\n"
        )


def _georeference(place: Place) -> dict[str, Any]:
    """As rasterio wants it; nothing where nothing is known."""
    from rasterio.control import GroundControlPoint
    from rasterio.crs import CRS
    from rasterio.transform import Affine

    found: dict[str, Any] = {}
    if place.crs is not None:
        found["crs"] = CRS.from_wkt(place.crs)
    if place.transform is not None:
        found["transform"] = Affine(*place.transform)
    elif place.gcps:
        found["gcps"] = [GroundControlPoint(row, column, x, y, z) for row, column, x, y, z in place.gcps]
    return found

"""GeoTIFF, Cloud Optimized GeoTIFF, plain TIFF and JPEG 2000 by GDAL (rasterio), with only the two drivers for these.

GDAL opens far more than images: addresses, archives, virtual files that name other files. So the driver is always
named, the file has been recognised by its first bytes, no file beside it is looked for, and nothing is fetched.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from maskmill.errors import InputError
from maskmill.images.raster.facts import (
    Closing,
    Facts,
    Geo,
    Window,
    check_numbers,
    checked,
    shown_channels,
    stored,
    turned,
)
from maskmill.images.raster.render import full

_QUIET = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_PAM_ENABLED": "NO",
    "GDAL_CACHEMAX": 128,  # MB of decoded blocks
    "GDAL_NUM_THREADS": "1",
    "CPL_DEBUG": "OFF",
    "VRT_VIRTUAL_OVERVIEWS": "NO",
}
_AT_ONCE = 64 << 20  # bytes that are read into a buffer of GDAL at once: it has the channels one after the other
_RED_GREEN_BLUE = ("red", "green", "blue")


@contextmanager
def quiet() -> Iterator[None]:
    """GDAL reads the one file it is given, and its errors are InputErrors with a reason of one line."""
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning, RasterioError

    try:
        with rasterio.Env(**_QUIET), warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            yield
    except InputError:
        raise
    except (RasterioError, ValueError, TypeError) as error:
        cause = error.__cause__ or error
        raise InputError(f"does not decode ({' '.join(str(cause).split())[:300]})") from None


class GdalRaster(Closing):
    """A file whose pages GDAL reads one by one; levels are its overviews."""

    def __init__(self, path: str, driver: str, pages: tuple[int, ...], declared: dict[str, Any]) -> None:
        """`pages`: where the directories of a TIFF begin (by number, GDAL would read all before); empty for one.

        `declared`: fields of Facts.
        """
        self._path, self._driver, self._pages = path, driver, pages
        self._open: dict[tuple[int, int], Any] = {}
        with quiet():
            self.facts = self._facts(declared)

    def _facts(self, declared: dict[str, Any]) -> Facts:
        file = self._dataset(0, 0)
        check_numbers(file.dtypes[0])
        colours = tuple(colour.name for colour in file.colorinterp)
        alpha = colours.index("alpha") if "alpha" in colours else None
        places = tuple(colours.index(name) for name in _RED_GREEN_BLUE if name in colours)
        others = [i for i in range(file.count) if i != alpha]
        geo = _geo(file)
        own: dict[str, Any] = {
            "kind": "tiff" if geo is None else "geotiff",
            "levels": self._levels(file, declared.get("orientation", 1)),
            "channels": file.count,
            "dtype": np.dtype(file.dtypes[0]),
            "pages": max(1, len(self._pages)),
            "colours": places if len(places) == 3 else tuple(others[i] for i in shown_channels(len(others))),
            "space": "rgb" if len(places) == 3 else "grey",
            "alpha": alpha,
            "bits": _bits(file),
            "nodata": _nodata(file),
            "geo": geo,
            "names": tuple(d or "" for d in file.descriptions) if any(file.descriptions) else None,
            "tile": math.prod(file.block_shapes[0]) * np.dtype(file.dtypes[0]).itemsize * file.count,
        }
        facts = Facts(**(own | declared))
        return facts if not _masked(file) else replace(facts, channels=file.count + 1, alpha=file.count, rare=True)

    def _levels(self, file: Any, orientation: int) -> tuple[tuple[int, int], ...]:
        sizes = [file.shape]
        sizes += [self._dataset(0, level).shape for level in range(1, len(file.overviews(1)) + 1)]
        return tuple((w, h) if orientation >= 5 else (h, w) for h, w in sizes)

    def _dataset(self, page: int, level: int) -> Any:
        import rasterio

        key = page, level
        if key not in self._open:
            path = f"GTIFF_DIR:off:{self._pages[page]}:{self._path}" if len(self._pages) > 1 else self._path
            overview = {"overview_level": level - 1} if level else {}
            while len(self._open) > 16:
                self._open.pop(next(iter(self._open))).close()
            self._open[key] = rasterio.open(path, driver=self._driver, sharing=False, **overview)
        return self._open[key]

    def read(self, window: Window | None = None, level: int = 0, page: int = 0) -> np.ndarray:
        """See `Raster.read`."""
        facts = self.facts
        shown = checked(facts, window, level, page)
        top, left, h, w = stored(shown, facts.levels[level], facts.orientation)
        with quiet():
            file = self._dataset(page, level)
            masked = _masked(file)
            if file.count + masked != facts.channels:
                raise InputError(f"page {page} has {file.count + masked} channels, the first has {facts.channels}")
            values = np.empty((h, w, facts.channels), file.dtypes[0])
            for first, last in _bands(file, top, h, w):
                box, own = ((first, last), (left, left + w)), values[first - top : last - top]
                own[..., : file.count] = np.moveaxis(file.read(window=box, boundless=False), 0, -1)
                if masked:  # as one more channel: opacity
                    own[..., -1] = (file.dataset_mask(window=box) > 0) * full(facts)[1]
        return turned(values, facts.orientation)

    def close(self) -> None:
        """Close all pages and levels."""
        while self._open:
            self._open.popitem()[1].close()


def _bands(file: Any, top: int, height: int, width: int) -> Iterator[tuple[int, int]]:
    """(first, last + 1) of the rows that are read at once: whole rows of blocks, so that none is decoded twice."""
    block = file.block_shapes[0][0]
    size = width * file.count * np.dtype(file.dtypes[0]).itemsize
    rows = max(1, _AT_ONCE // size // block) * block
    first = top
    while first < top + height:
        last = min(top + height, (first // rows + 1) * rows)
        yield first, last
        first = last


def _geo(file: Any) -> Geo | None:
    points, gcp_crs = file.gcps
    crs = file.crs or gcp_crs
    placed = not file.transform.is_identity
    if crs is None and not placed and not points:
        return None
    gcps = tuple((p.row, p.col, p.x, p.y, p.z or 0.0) for p in points)
    return Geo(None if crs is None else crs.to_wkt(), tuple(file.transform)[:6] if placed else None, gcps)


def _masked(file: Any) -> bool:
    """Whether a file holds a mask of its own for all channels, which is neither a channel nor follows from nodata."""
    from rasterio.enums import MaskFlags

    flags = file.mask_flag_enums[0]
    return MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags


def _bits(file: Any) -> int | None:
    bits = file.tags(1, ns="IMAGE_STRUCTURE").get("NBITS")
    return int(bits) if bits else None


def _nodata(file: Any) -> float | tuple[float | None, ...] | None:
    values = file.nodatavals
    if all(value is None for value in values):
        return None
    return values[0] if len({str(value) for value in values}) == 1 else tuple(values)


def open_jpeg2000(path: str) -> GdalRaster:
    """A JPEG 2000 file or codestream; raises InputError with the reason."""
    return GdalRaster(path, "JP2OpenJPEG", (), {"kind": "jpeg 2000"})

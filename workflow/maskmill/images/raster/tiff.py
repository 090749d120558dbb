"""TIFF of every kind: what its tags declare, and who reads its pixels.

Files of microscopes and slide scanners (OME, ImageJ, SVS, NDPI, LSM, ...) keep their axes in metadata that tifffile
knows; all others are read by GDAL, and those that its codecs do not know by tifffile too.
"""

from __future__ import annotations

import logging
import math
import struct
from typing import Any

import numpy as np

from maskmill.errors import InputError
from maskmill.images.raster.facts import (
    Closing,
    Facts,
    Raster,
    RefusedError,
    Window,
    check_numbers,
    checked,
    shown_channels,
    stored,
    turned,
)
from maskmill.images.raster.gdal import GdalRaster
from maskmill.images.raster.geo import gap_of, geo_of

_GENERIC = ("uniform", "generic", "shaped")
_SLIDES = ("svs", "scn", "ndpi", "bif", "philips", "ventana", "qpi")
_PHOTOMETRIC = {2: "rgb", 3: "palette", 5: "cmyk", 6: "rgb", 8: "lab", 9: "lab", 10: "lab"}
_USUAL = (1, 2, 3, 4, 5, 6, 7, 8, 32773, 32946, 34925, 50000)  # compressions that Pillow knows too
_REDUCED, _MASK = 1, 4  # bits of NewSubfileType
_MICRONS = {2: 25400.0, 3: 10000.0}  # of a unit of resolution: inch, centimetre
_TAGS = 4096  # of a directory: more than that is taken for damage, by tifffile too

logging.getLogger("tifffile").addHandler(logging.NullHandler())  # what it logs of a damaged file is said here


def open_tiff(path: str) -> Raster:
    """A TIFF, BigTIFF, GeoTIFF, OME-TIFF or slide.

    Raises:
        InputError: it cannot be read, with the reason. RefusedError: and nobody else may read its first picture, as it
            is cut off, has several pages, or has complex values.
    """
    import tifffile

    try:
        file = tifffile.TiffFile(path, _multifile=False)  # an OME-TIFF may name other files: they are not opened
    except OSError:
        raise
    except Exception as error:
        raise _damaged(error) from None
    try:
        _check_chain(file)
        return _reader(path, file)
    except InputError:
        file.close()
        raise
    except Exception as error:
        several = len(file.pages) > 1
        file.close()
        raise (RefusedError(str(_damaged(error))) if several else _damaged(error)) from None


def _check_chain(file: Any) -> None:
    """Raises RefusedError where the chain of directories leaves the file: tifffile takes those that it finds."""
    tiff, handle = file.tiff, file.filehandle
    try:
        handle.seek(file.pages[len(file.pages) - 1].offset)
        (tags,) = struct.unpack(tiff.tagnoformat, handle.read(tiff.tagnosize))
        handle.seek(tags * tiff.tagsize, 1)
        (following,) = struct.unpack(tiff.offsetformat, handle.read(tiff.offsetsize))
        if following:  # no directory that can be read, or one before: a circle ends nowhere, but is complete
            handle.seek(following)
            (tags,) = struct.unpack(tiff.tagnoformat, handle.read(tiff.tagnosize))
            if tags > _TAGS:
                raise RefusedError(f"damaged: a directory of {tags} tags")
    except InputError:
        raise
    except Exception:  # of a directory that is not all there: struct.error, ValueError, tifffile's own
        raise RefusedError(
            "cut off: its directories lead beyond its end; copy it anew from its source, or save it again"
        ) from None


def _damaged(error: Exception) -> InputError:
    return InputError(f"does not decode ({' '.join(f'{type(error).__name__}: {error}'.split())[:300]})")


def _reader(path: str, file: Any) -> Raster:
    series = file.series[0]
    declared = _declared(file, series)
    if series.kind in _GENERIC and declared.get("space") not in ("cmyk", "lab"):  # GDAL makes RGBA of these
        chosen = [(int(page.offset), page) for page in file.pages if not page.subfiletype & (_REDUCED | _MASK)]
        alike = [offset for offset, page in chosen if page.shape == chosen[0][1].shape]
        whole = math.prod(series.shape) == math.prod(series.keyframe.shape) * len(alike)  # no pages without a header
        if chosen and (whole or series.kind != "shaped"):
            try:
                declared |= {"uneven": len(alike) < len(chosen)}
                found = GdalRaster(path, "GTiff", tuple(alike), declared)
            except RefusedError:
                raise
            except InputError:
                pass  # a codec that GDAL was built without
            else:
                file.close()
                return found
    return SeriesRaster(file, declared)


def _declared(file: Any, series: Any) -> dict[str, Any]:
    """Fields of Facts that stand in the tags of the first page."""
    page = series.keyframe
    space = _PHOTOMETRIC.get(int(page.photometric), "grey")
    found: dict[str, Any] = {"inverted": int(page.photometric) == 0, "orientation": _orientation(page)}
    found["rare"] = int(page.compression) not in _USUAL
    if space != "grey":
        found["space"] = space
    if space == "palette" and page.colormap is not None:
        found["palette"] = (np.asarray(page.colormap).T >> 8).astype(np.uint8)
    extra = [int(value) for value in page.extrasamples]
    first = page.samplesperpixel - len(extra)
    if 1 in extra or 2 in extra:
        place = min(extra.index(value) for value in (1, 2) if value in extra)
        found |= {"alpha": first + place, "premultiplied": extra[place] == 1}
    if space in ("rgb", "cmyk", "lab"):
        found["colours"] = tuple(range(4 if space == "cmyk" else 3))
    microns = _microns(page)
    return found if microns is None else found | {"microns": microns}


def _orientation(page: Any) -> int:
    tag = page.tags.get(274)
    return int(tag.value) if tag is not None and tag.value in range(1, 9) else 1


def _microns(page: Any) -> tuple[float, float] | None:
    unit = _MICRONS.get(int(page.tags.valueof(296, 1)))
    resolution = [page.tags.valueof(tag) for tag in (283, 282)]
    if unit is None or None in resolution or not all(part for pair in resolution for part in pair):
        return None
    y, x = (unit * below / above for above, below in resolution)
    return y, x


class SeriesRaster(Closing):
    """The first series of a file as tifffile sees it: axes Y and X, channels C and S, and all others as pages."""

    def __init__(self, file: Any, declared: dict[str, Any]) -> None:
        self._file, self._series = file, file.series[0]
        self._axes: str = self._series.axes
        self._stores: dict[int, Any] = {}
        shape = dict(zip(self._axes, self._series.shape, strict=True))
        if "Y" not in shape or "X" not in shape:
            raise InputError(f"its axes are {self._axes}: no picture has no Y or X")
        self._others = [axis for axis in self._axes if axis not in "YXCS"]
        channels = shape.get("C", 1) * shape.get("S", 1)
        turn = declared.get("orientation", 1)
        sizes = [tuple(level.shape[self._axes.index(axis)] for axis in "YX") for level in self._series.levels]
        page = self._series.keyframe
        if int(page.sampleformat) in (5, 6):
            check_numbers("complex")
        own: dict[str, Any] = {
            "kind": _kind(self._series.kind),
            "levels": tuple((w, h) if turn >= 5 else (h, w) for h, w in sizes),
            "channels": channels,
            "dtype": np.dtype(self._series.dtype).newbyteorder("="),
            "pages": math.prod(shape[axis] for axis in self._others),
            "colours": shown_channels(channels),
            "uneven": False,
            "nodata": gap_of(page),
            "geo": geo_of(page),
            "tile": math.prod(page.chunks) * page.dtype.itemsize,
        }
        if page.dtype.itemsize * 8 != page.bitspersample and page.dtype.kind in "iu":
            own["bits"] = page.bitspersample
        if self._series.kind in ("ome", "imagej"):
            own |= _described(file, self._series.kind)
        if own["kind"] == "tiff" and own["geo"] is not None:
            own["kind"] = "geotiff"
        self.facts = Facts(**(own | declared))

    def _array(self, level: int) -> Any:
        if level not in self._stores:
            import zarr

            self._stores[level] = zarr.open_array(self._series.aszarr(level=level), mode="r")
        return self._stores[level]

    def read(self, window: Window | None = None, level: int = 0, page: int = 0) -> np.ndarray:
        """See `Raster.read`."""
        facts = self.facts
        top, left, h, w = stored(checked(facts, window, level, page), facts.levels[level], facts.orientation)
        place = np.unravel_index(page, [self._series.shape[self._axes.index(axis)] for axis in self._others] or [1])
        of = dict(zip(self._others, (int(i) for i in place), strict=False))
        of |= {"Y": slice(top, top + h), "X": slice(left, left + w)}  # type: ignore[dict-item]
        try:
            values = np.asarray(self._array(level)[tuple(of.get(axis, slice(None)) for axis in self._axes)])
        except Exception as error:  # each codec has its own
            raise _damaged(error) from None
        kept = [axis for axis in self._axes if axis in "YXCS"]
        values = values.transpose([kept.index(axis) for axis in "YXCS" if axis in kept]).reshape(h, w, -1)
        return turned(values.astype(facts.dtype, copy=False), facts.orientation)

    def close(self) -> None:
        """Close the file."""
        self._stores.clear()
        self._file.close()


def _kind(series: str) -> str:
    if series in _SLIDES:
        return "whole slide"
    return {"ome": "ome-tiff"}.get(series, "tiff" if series in _GENERIC else f"{series} tiff")


def _described(file: Any, kind: str) -> dict[str, Any]:
    """Names of channels and sizes of pixels in the metadata of OME and ImageJ."""
    import tifffile

    found: dict[str, Any] = {}
    if kind == "ome":
        body = tifffile.xml2dict(file.ome_metadata)["OME"]["Image"]
        pixels = (body[0] if isinstance(body, list) else body)["Pixels"]
        channels = pixels.get("Channel", [])
        names = [str(c.get("Name", "")) for c in (channels if isinstance(channels, list) else [channels])]
        if any(names):
            found["names"] = tuple(names)
        sizes = [pixels.get(f"PhysicalSize{axis}") for axis in "YX"]
        units = {pixels.get(f"PhysicalSize{axis}Unit", "µm") for axis in "YX"}
        if all(sizes) and units <= {"µm", "um", "μm"}:
            found["microns"] = tuple(float(size) for size in sizes)
    elif kind == "imagej":
        labels = (file.imagej_metadata or {}).get("Labels")
        if labels:
            found["names"] = tuple(str(label) for label in labels)
    return found

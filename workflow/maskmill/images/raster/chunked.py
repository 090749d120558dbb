"""Zarr arrays and OME-Zarr images (versions 2 and 3 of Zarr) in a folder of this machine."""

from __future__ import annotations

import json
import math
import os
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from maskmill.errors import InputError
from maskmill.images.raster.facts import Closing, Facts, Window, checked, shown_channels
from maskmill.images.stems import STORE_MARKS, is_store

_CHANNELS = ("c", "channel", "channels", "band", "bands", "s")
_LARGEST_HEADER = 16 << 20
_FEW = 4  # the last of three unnamed axes is that of channels where it has at most as many
_MICRONS = {"micrometer": 1.0, "micron": 1.0, "um": 1.0, "µm": 1.0, "nanometer": 1e-3, "millimeter": 1e3, "meter": 1e6}


class ZarrRaster(Closing):
    """A Zarr array, or the pyramid of an OME-Zarr group. Axes other than y, x and channels are pages."""

    def __init__(self, folder: str) -> None:
        if not is_store(folder):
            raise InputError("a folder, and neither a Zarr array nor a group")
        self._folder = folder
        names, scale, self._arrays, kind, channels = self._found()
        first = self._arrays[0]
        self._axes = names or _unnamed(first.shape)
        if any(len(array.shape) != len(self._axes) for array in self._arrays):
            raise InputError(f"its arrays have other axes than {', '.join(self._axes)}")
        shape = dict(zip(self._axes, first.shape, strict=True))
        if "y" not in shape or "x" not in shape:
            raise InputError(f"its axes are {', '.join(self._axes)}; a picture needs y and x")
        self._others = [axis for axis in self._axes if axis not in ("y", "x", "c")]
        count = shape.get("c", 1)
        y, x = self._axes.index("y"), self._axes.index("x")
        nodata = _nodata(dict(first.attrs))
        self.facts = Facts(
            kind,
            tuple((array.shape[y], array.shape[x]) for array in self._arrays),
            count,
            np.dtype(first.dtype).newbyteorder("="),
            pages=math.prod(shape[axis] for axis in self._others),
            colours=shown_channels(count),
            space="rgb" if count == 3 and first.dtype == np.uint8 else "grey",
            nodata=nodata,
            microns=None if scale is None else (scale[y], scale[x]),
            names=channels,
            tile=max(math.prod(array.chunks) * array.dtype.itemsize for array in self._arrays),
        )

    def _found(self) -> tuple[list[str] | None, list[float] | None, list[Any], str, tuple[str, ...] | None]:
        """(axes, microns along each, arrays of the levels, kind, names of channels)."""
        import zarr
        from zarr.storage import LocalStore

        for mark in STORE_MARKS:
            path = os.path.join(self._folder, mark)
            if os.path.isfile(path) and os.path.getsize(path) > _LARGEST_HEADER:
                raise InputError(f"its {mark} has more than {_LARGEST_HEADER >> 20} MiB")
        try:
            node = zarr.open(LocalStore(self._folder, read_only=True), mode="r")
            if isinstance(node, zarr.Array):
                return _dimensions(node), None, [_safe(node)], "zarr", None
            attributes: dict[str, Any] = dict(node.attrs)
            described: Any = attributes.get("ome", attributes)
            if "multiscales" not in described:
                return self._only(node)
            image = described["multiscales"][0]
            axes = [_axis(axis) for axis in image["axes"]]
            paths = [_inside(level["path"]) for level in image["datasets"]]
            arrays = [_safe(node[path]) for path in paths]
            return axes, _scale(image), arrays, "ome-zarr", _labels(described)
        except InputError:
            raise
        except Exception as error:  # of a damaged or foreign folder: KeyError, TypeError, ValueError, zarr's own
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise InputError(f"not a readable Zarr image ({reason})") from None

    def _only(self, node: Any) -> tuple[list[str] | None, None, list[Any], str, None]:
        arrays = sorted(node.arrays())
        pictures = [array for _, array in arrays if len(array.shape) >= 2]
        if len(pictures) != 1:
            names = ", ".join(name for name, _ in arrays[:5]) or "none"
            raise InputError(f"a Zarr group of {len(arrays)} arrays ({names}) and no OME-Zarr image; name one of them")
        return _dimensions(pictures[0]), None, [_safe(pictures[0])], "zarr", None

    def read(self, window: Window | None = None, level: int = 0, page: int = 0) -> np.ndarray:
        """See `Raster.read`."""
        top, left, h, w = checked(self.facts, window, level, page)
        array = self._arrays[level]
        sizes = [array.shape[self._axes.index(axis)] for axis in self._others]
        at = (int(i) for i in np.unravel_index(page, sizes or [1]))
        of: dict[str, Any] = dict(zip(self._others, at, strict=False))
        of |= {"y": slice(top, top + h), "x": slice(left, left + w)}
        try:
            values = np.asarray(array[tuple(of.get(axis, slice(None)) for axis in self._axes)])
        except Exception as error:  # each codec has its own
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise InputError(f"does not decode ({reason})") from None
        kept = [axis for axis in self._axes if axis in ("y", "x", "c")]
        values = values.transpose([kept.index(axis) for axis in ("y", "x", "c") if axis in kept]).reshape(h, w, -1)
        return np.ascontiguousarray(values.astype(self.facts.dtype, copy=False))


def _safe(array: Any) -> Any:
    """The array, unless it holds objects: those would be unpickled."""
    if array.dtype.kind not in "uifb" or "pickle" in json.dumps(array.metadata.to_dict(), default=str):
        raise InputError(f"an array of {array.dtype}, not of numbers")
    return array


def _inside(path: str) -> str:
    """The path of an array below the group."""
    if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
        raise InputError(f"its array {path!r} lies outside")
    return path


def _axis(axis: Any) -> str:
    name = str(axis["name"] if isinstance(axis, dict) else axis).lower()
    return "c" if name in _CHANNELS or (isinstance(axis, dict) and axis.get("type") == "channel") else name


def _dimensions(array: Any) -> list[str] | None:
    """The axes by the array's own words (Zarr 3, or xarray in Zarr 2)."""
    names = getattr(array.metadata, "dimension_names", None) or array.attrs.get("_ARRAY_DIMENSIONS")
    if not names or not all(names):
        return None
    known = {"lat": "y", "latitude": "y", "row": "y", "lon": "x", "longitude": "x", "column": "x"}
    return [known.get(axis, axis) for axis in (_axis(name) for name in names)]


def _unnamed(shape: tuple[int, ...]) -> list[str]:
    """Axes of an array without names: y, x; y, x, c where the last of three has at most four; else pages, y, x."""
    if len(shape) < 2:
        raise InputError(f"an array of {len(shape)} axes is no picture")
    if len(shape) == 3 and shape[2] <= _FEW:
        return ["y", "x", "c"]
    return [*(f"page{i}" for i in range(len(shape) - 2)), "y", "x"]


def _nodata(attributes: dict[str, Any]) -> float | None:
    """As xarray and GDAL write it beside an array. The fill value of Zarr itself is only what an absent chunk has."""
    for key in ("_FillValue", "missing_value", "nodata"):
        value = attributes.get(key)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
    return None


def _scale(image: dict[str, Any]) -> list[float] | None:
    """Micrometres along each axis of the first level; None where the units are not lengths."""
    steps = image["datasets"][0].get("coordinateTransformations", [])
    scale = next((step["scale"] for step in steps if step.get("type") == "scale"), None)
    units = [axis.get("unit") if isinstance(axis, dict) else None for axis in image["axes"]]
    space = [unit for axis, unit in zip(image["axes"], units, strict=True) if _axis(axis) in ("y", "x")]
    if scale is None or not all(unit in _MICRONS for unit in space):
        return None
    return [float(s) * _MICRONS.get(str(unit), 1.0) for s, unit in zip(scale, units, strict=True)]


def _labels(described: dict[str, Any]) -> tuple[str, ...] | None:
    channels = described.get("omero", {}).get("channels", [])
    names = tuple(str(channel.get("label", "")) for channel in channels)
    return names if any(names) else None

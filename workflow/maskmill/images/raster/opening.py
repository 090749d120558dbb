"""Any image file or Zarr folder, recognised by its content."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from maskmill.errors import InputError
from maskmill.images.decode import FILE_BYTES, MAX_PIXELS, deep_mode
from maskmill.images.raster.chunked import ZarrRaster
from maskmill.images.raster.facts import Raster, RefusedError
from maskmill.images.raster.gdal import open_jpeg2000
from maskmill.images.raster.still import DeepRaster, PhotoRaster, is_deep, may_be_deep
from maskmill.images.raster.tiff import open_tiff
from maskmill.images.stems import is_store
from maskmill.images.view import View
from maskmill.reading import SPECIAL, is_special
from maskmill.store.seal import bytes_crc32c

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_JPEG2000 = (b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51")


def open_raster(path: str | Path, max_pixels: int = MAX_PIXELS) -> Raster:
    """The reader for a file, or for a folder that is a Zarr array or group, by its content and not by its name.

    Args:
        max_pixels: of files that can only be decoded as a whole.

    Raises:
        InputError: not an image that is known, damaged, too large; the reason without the path.
        OSError: it cannot be read.
    """
    name = os.path.abspath(path)
    if os.path.isdir(name):
        return _bounded(ZarrRaster(name))
    if is_special(name):
        raise InputError(SPECIAL)
    with open(name, "rb") as file:
        head = file.read(64)
    if head.startswith((*_TIFF, *_JPEG2000)):
        try:
            return _bounded(open_tiff(name) if head.startswith(_TIFF) else open_jpeg2000(name))
        except RefusedError:
            raise
        except InputError:
            if not as_photo(name, max_pixels):
                raise
    if is_deep(name, head, max_pixels):
        return DeepRaster(name, max_pixels)
    return PhotoRaster(name, max_pixels)


def is_ordinary(path: str | Path) -> bool:
    """Whether a file can only be a photo of eight bits a channel, by its first bytes; OSError where it is unreadable.

    Files that are no image at all count as ordinary too: `decode` says what they are.
    """
    if os.path.isdir(path) or is_special(path):
        return not is_store(path)
    try:
        with open(path, "rb") as file:
            head = file.read(64)
    except ValueError:  # a name with a NUL
        return True
    return not head.startswith((*_TIFF, *_JPEG2000)) and not may_be_deep(head)


def as_photo(path: str, max_pixels: int) -> bool:
    """Whether Pillow knows a file of eight bits that the other readers do not (JPEG in TIFF as it was before 1995)."""
    try:
        return not deep_mode(path, max_pixels)
    except InputError:
        return False


def _bounded(raster: Raster) -> Raster:
    """The reader, unless one block of its file is more than a whole image may be."""
    most = FILE_BYTES[0] + FILE_BYTES[1] * MAX_PIXELS
    if raster.facts.tile > most:
        raster.close()
        raise InputError(f"its blocks have {raster.facts.tile / 2**30:.1f} GiB each; save it anew with tiles")
    return raster


def read_raw(raster: Raster, view: View) -> np.ndarray:
    """The stored values [h, w, channels] that a view shows; the maximum or mean of all pages where it says so.

    Raises:
        InputError: the file does not hold what the view names; the reason without the path.
    """
    if isinstance(view.page, int):
        return raster.read(view.window, view.level, view.page)
    if view.page not in ("max", "mean"):
        raise InputError(f"a view of page {view.page!r}; it is a number, max or mean")
    total = raster.read(view.window, view.level, 0)
    kind = total.dtype
    if view.page == "mean":
        total = total.astype(np.float64)
    for page in range(1, raster.facts.pages):
        values = raster.read(view.window, view.level, page)
        (np.maximum if view.page == "max" else np.add)(total, values, out=total)
    if view.page == "max":
        return total
    total /= raster.facts.pages
    return (np.round(total) if kind.kind in "iu" else total).astype(kind)


def values_crc32c(raw: np.ndarray) -> int:
    """CRC32C of stored values in the order of C, little-endian: what the manifest says of a picture with a view."""
    return bytes_crc32c(values_bytes(raw))


def values_bytes(raw: np.ndarray) -> memoryview:
    """Stored values in the order of C, little-endian: those of the array itself where it has them so."""
    return np.ascontiguousarray(raw, raw.dtype.newbyteorder("<")).reshape(-1).view(np.uint8).data

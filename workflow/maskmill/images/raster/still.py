"""Photos as Pillow reads them, and files of one picture whose values are deeper than eight bits."""

from __future__ import annotations

import os
import struct
from functools import lru_cache

import numpy as np

from maskmill.errors import InputError
from maskmill.images.decode import decode, decode_deep, deep_mode, displayed_size, image_bytes, orientation
from maskmill.images.raster.facts import Closing, Facts, Window, checked, shown_channels, turned

PNG = b"\x89PNG\r\n\x1a\n"
_DEEP_PNM = (b"P2", b"P5", b"Pf")


class PhotoRaster(Closing):
    """A photo of eight bits as `decode` reads it: uint8 RGB, upright, over white. It is decoded as a whole."""

    def __init__(self, path: str, max_pixels: int) -> None:
        self._path, self._max = path, max_pixels
        self.facts = Facts(
            "photo", (displayed_size(path, max_pixels),), 3, np.dtype(np.uint8), colours=(0, 1, 2), space="rgb"
        )

    def read(self, window: Window | None = None, level: int = 0, page: int = 0) -> np.ndarray:
        """See `Raster.read`."""
        top, left, h, w = checked(self.facts, window, level, page)
        return np.ascontiguousarray(_decoded(self._path, _stamp(self._path), self._max)[top : top + h, left : left + w])


class DeepRaster(Closing):
    """A PNG of 16 bits by imagecodecs, or grey of more than eight bits by Pillow. It is decoded as a whole."""

    def __init__(self, path: str, max_pixels: int) -> None:
        self._path, self._max = path, max_pixels
        size = displayed_size(path, max_pixels)
        with open(path, "rb") as file:
            head = file.read(64)
        if head.startswith(PNG):
            self.facts = _png_facts(size, head)
        else:
            values = _deep(path, _stamp(path), max_pixels)
            self.facts = Facts("grey", (size,), values.shape[2], values.dtype)

    def read(self, window: Window | None = None, level: int = 0, page: int = 0) -> np.ndarray:
        """See `Raster.read`."""
        top, left, h, w = checked(self.facts, window, level, page)
        return np.ascontiguousarray(_deep(self._path, _stamp(self._path), self._max)[top : top + h, left : left + w])


def may_be_deep(head: bytes) -> bool:
    """Whether the first bytes of a file are those of a PNG of 16 bits a channel, or of a PGM or PFM."""
    return head[24:25] == b"\x10" if head.startswith(PNG) else head[:2] in _DEEP_PNM


def is_deep(path: str, head: bytes, max_pixels: int) -> bool:
    """Whether a file with these first bytes is a PNG of 16 bits a channel, or a PGM or PFM of more than 8."""
    return may_be_deep(head) and (head.startswith(PNG) or deep_mode(path, max_pixels))


def _png_facts(size: tuple[int, int], head: bytes) -> Facts:
    (colour,) = struct.unpack_from("B", head, 25)
    channels = {0: 1, 2: 3, 4: 2, 6: 4}.get(colour)
    if channels is None:
        raise InputError(f"a PNG of colour type {colour}")
    alpha = channels - 1 if colour in (4, 6) else None
    colours = shown_channels(channels - (alpha is not None))
    space = "rgb" if colour in (2, 6) else "grey"
    return Facts("png", (size,), channels, np.dtype(np.uint16), colours=colours, space=space, alpha=alpha)


def _stamp(path: str) -> tuple[int, int]:
    stat = os.stat(path)
    return stat.st_size, stat.st_mtime_ns


@lru_cache(1)
def _decoded(path: str, stamp: tuple[int, int], max_pixels: int) -> np.ndarray:
    """The last photo: windows of one file are read one after the other."""
    return decode(path, max_pixels)


@lru_cache(1)
def _deep(path: str, stamp: tuple[int, int], max_pixels: int) -> np.ndarray:
    body = image_bytes(path, max_pixels)
    if not body.startswith(PNG):
        return decode_deep(body, max_pixels)
    import imagecodecs

    turn = orientation(body, max_pixels)  # and its header allows so many pixels
    try:
        values = imagecodecs.png_decode(body)
    except Exception as error:
        raise InputError(f"does not decode ({' '.join(str(error).split())})") from None
    return turned(values if values.ndim == 3 else values[..., None], turn)

"""A label file read and checked: one class number a pixel, as large as its image; or the part that a window shows."""

from __future__ import annotations

import hashlib
import os
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from maskmill.errors import InputError
from maskmill.images.decode import MAX_PIXELS, label_nodata, label_values
from maskmill.images.raster import Facts, kept_raster
from maskmill.images.view import View
from maskmill.images.windows import keep_core

IDS = 1 << 16  # label ids are 0..65535
VOID = 255  # what a label file declares to be no label (GDAL_NODATA) becomes this: `evaluate.ignore` names it
OUTSIDE = IDS - 1  # in the label of a window: what is not of its core, and so counts for a neighbour
_AT_ONCE = ("photo", "png", "grey")  # kinds of files that can only be decoded as a whole


@dataclass(frozen=True)
class LabelFacts:
    """What a label file has: a digest of its bytes, and {label id: pixels}, ascending.

    Of a window: a digest of its values, and the pixels of its core.
    """

    digest: str
    pixels: dict[int, int]


def checked_label(label: str, image: str, height: int, width: int, view: str | None = None) -> tuple[np.ndarray, str]:
    """Label ids int32 [height, width] of the file `label`, `VOID` where it declares nodata, and a digest of its bytes.

    Args:
        view: how the picture is read from its file. The label of a window is the same window of the label file, which
            is as large as the image or as the level that is read, nearest neighbour where these differ; the digest is
            that of its values then. Of tiled and stripped files, only what the window touches is decoded.

    Raises:
        InputError: unreadable, in colour, not of the size of `image`, or ids outside 0..65535; names the file.
    """
    if view is not None:
        ids, digest = _of_view(label, image, (height, width), View.of(view))
    else:
        ids, digest = _whole(label, max(MAX_PIXELS, height * width))
    if ids.shape != (height, width):
        raise _wrong_size(label, image, (ids.shape[0], ids.shape[1]), [(height, width)])
    if ids.min() < 0 or ids.max() >= IDS:
        raise InputError(f"{label}: label ids {ids.min()}..{ids.max()}; ids must be in 0..{IDS - 1}")
    return ids, digest


def label_facts(label: str, image: str, height: int, width: int, view: str | None = None) -> LabelFacts | str:
    """Facts of a label file, or why it cannot be used: exceptions do not leave worker processes whole."""
    try:
        ids, digest = checked_label(label, image, height, width, view)
    except InputError as error:
        return str(error)
    try:
        own = core_ids(ids, label, view, -1)
    except InputError as error:
        return str(error)
    counts = np.bincount(own[own >= 0] if own is not ids else ids.ravel())
    return LabelFacts(digest, {int(i): int(counts[i]) for i in np.flatnonzero(counts)})


def core_ids(ids: np.ndarray, label: str, view: str | None, outside: int = OUTSIDE) -> np.ndarray:
    """The ids [height, width] of a label of a picture, `outside` where the pixels are not of the core of a window.

    Raises:
        InputError: a window has the id that says so; names the file.
    """
    own = keep_core(ids, view, outside)
    if own is not ids and ids.max() == OUTSIDE:
        raise InputError(
            f"{label}: label id {OUTSIDE}, which cannot be used where images are cut into windows: it marks what a "
            "neighbouring window shows; give these pixels another id, such as 255 for void"
        )
    return own


def _whole(label: str, max_pixels: int) -> tuple[np.ndarray, str]:
    """Label ids int32 [H, W] of a whole file, and a digest of its bytes."""
    values, body = label_values(label, max_pixels)
    ids = _voided(values.astype(np.int32), label_nodata(body, max_pixels))
    return ids, hashlib.blake2b(body, digest_size=8).hexdigest()


def _voided(ids: np.ndarray, nodata: float | None) -> np.ndarray:
    """The same array, with `VOID` where the file declares that it has no label; no id is NaN, or a fraction."""
    if nodata is not None and nodata != VOID:
        ids[ids == nodata] = VOID
    return ids


def _of_view(label: str, image: str, size: tuple[int, int], view: View) -> tuple[np.ndarray, str]:
    """The part of a label file that a picture shows, int32, and a digest of its values."""
    level = view.whole or size
    whole = round(level[0] * view.scale[0]), round(level[1] * view.scale[1])
    top, left, height, width = view.window or (0, 0, *size)
    with _LabelFile(label, max(MAX_PIXELS, whole[0] * whole[1])) as source:
        if source.size not in (level, whole):
            raise _wrong_size(label, image, source.size, [whole, level])
        rows = _nearest(top, height, level[0], source.size[0])
        columns = _nearest(left, width, level[1], source.size[1])
        first, last = (int(rows[0]), int(columns[0])), (int(rows[-1]) + 1, int(columns[-1]) + 1)
        values = source.read((*first, last[0] - first[0], last[1] - first[1]), view.page)
        nodata = source.nodata
    ids = _voided(values[rows - first[0]][:, columns - first[1]].astype(np.int32), nodata)
    digest = hashlib.blake2b(np.ascontiguousarray(ids, "<i4").tobytes(), digest_size=8, key=str(ids.shape).encode())
    return ids, digest.hexdigest()


def _nearest(start: int, count: int, length: int, source: int) -> np.ndarray:
    """Of `count` pixels from `start` on, along a side of `length`, the nearest along one of `source` pixels."""
    at = np.arange(start, start + count)
    return at if source == length else np.minimum(((at + 0.5) * (source / length)).astype(np.int64), source - 1)


def _wrong_size(label: str, image: str, found: tuple[int, int], wanted: list[tuple[int, int]]) -> InputError:
    sizes = " or ".join(dict.fromkeys(f"{width} x {height}" for height, width in wanted))
    return InputError(
        f"{label}: label of {found[1]} x {found[0]} pixels for {image} of {sizes}; "
        "a label is as large as its image is displayed"
    )


class _LabelFile:
    """A label file of which windows are read. Raises InputErrors that name it."""

    def __init__(self, path: str, max_pixels: int) -> None:
        self._path, self._max = path, max_pixels
        self._open = ExitStack()
        try:
            self._raster = self._open.enter_context(kept_raster(path, max_pixels))
        except (InputError, OSError) as error:
            raise InputError(f"{path}: label: {error}") from None
        facts = self._raster.facts
        self.size = facts.size
        self._at_once = facts.kind in _AT_ONCE
        self.nodata = facts.nodata[0] if isinstance(facts.nodata, tuple) else facts.nodata
        if not self._at_once:
            self._check(facts)

    def _check(self, facts: Facts) -> None:
        if facts.channels != 1 or facts.dtype.kind not in "uib":
            raise InputError(
                f"{self._path}: label: {facts.channels} channels of {facts.dtype}; save one class number a pixel"
            )

    def read(self, window: tuple[int, int, int, int], page: int | str) -> np.ndarray:
        """Values [h, w] of a window, of the same page where the file has several."""
        if self._at_once:
            top, left, height, width = window
            stat = os.stat(self._path)
            whole = _decoded(self._path, (stat.st_size, stat.st_mtime_ns), self._max)
            return whole[top : top + height, left : left + width]
        try:
            paged = isinstance(page, int) and self._raster.facts.pages > 1
            return self._raster.read(window, 0, int(page) if paged else 0)[..., 0]
        except (InputError, OSError) as error:
            raise InputError(f"{self._path}: label: {error}") from None

    def __enter__(self) -> _LabelFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()


@lru_cache(1)
def _decoded(path: str, stamp: tuple[int, int], max_pixels: int) -> np.ndarray:
    """The last label that was decoded as a whole: its windows are read one after the other."""
    return label_values(path, max_pixels)[0]

"""New images as a run has read its own: whole photos, pages, composites, and windows of what is large."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from maskmill.errors import InputError
from maskmill.images.decode import decode
from maskmill.images.place import Place, place_of, placed
from maskmill.images.raster import Facts, Raster, Shown, open_raster
from maskmill.images.raster.opening import is_ordinary
from maskmill.images.stitching import Canvas, Picture, canvases
from maskmill.images.view import View
from maskmill.inputs.reading import Reading, check_whole
from maskmill.store.manifest import window_id

_TILES = "cut it into tiles, or raise --max-pixels"


@dataclass(frozen=True)
class NewPicture:
    """A picture of a new image, as a row of a manifest describes one of a run."""

    id: str
    path: str
    height: int
    width: int
    view: str | None = None


@dataclass(frozen=True)
class NewFile:
    """An open file: a photo, or a raster.

    Attributes:
        canvases: its images and pages; windows of one image are on one canvas. photo: the pixels of a photo.
    """

    path: Path
    canvases: list[Canvas]
    reading: Reading
    photo: np.ndarray | None = None
    raster: Raster | None = None

    def shown(self, picture: Picture) -> Shown | None:
        """The picture; None of an empty window. Raises InputError with the reason, without the path."""
        if self.raster is None:
            return None if self.photo is None else Shown(self.photo)
        return self.reading.shown(self.raster, View.of(picture.view or "{}"))

    def place(self, canvas: Canvas) -> Place:
        """Where a canvas lies."""
        if self.raster is None:
            return place_of(canvas)
        return placed(self.raster.facts, canvas.view.scale if canvas.view is not None else (1.0, 1.0))


def divides(reading: Reading) -> bool:
    """Whether a file may have several images, which have ids of their own."""
    return reading.rendering.pages == "all" or list(reading.rendering.composites) != [""]


def names(path: Path, name: str, reading: Reading, max_pixels: int) -> list[str]:
    """The ids of the images and pages of a file, from its header; its own name where it cannot be read, as is said
    later.
    """
    if not divides(reading):
        return [name]
    try:
        if reading.only_photos and is_ordinary(path):
            return [name]
        with open_raster(path, max_pixels) as raster:
            return [name + more for more, _ in reading.rendering.pictures(raster.facts)]
    except (InputError, OSError):
        return [name]


@contextlib.contextmanager
def opened(path: Path, name: str, reading: Reading, max_pixels: int) -> Iterator[NewFile]:
    """A new image under a name.

    Raises:
        InputError: not an image, damaged, too large, or without the channels that the run has read; the reason without
            the path. OSError: it cannot be read.
    """
    if reading.only_photos and is_ordinary(path):
        yield _photo(path, name, reading, max_pixels)
        return
    with open_raster(path, max_pixels) as raster:
        views = reading.views(raster.facts)
        if reading.is_photo(raster.facts, views):
            yield _photo(path, name, reading, max_pixels)
            return
        if reading.window is None:
            check_whole(raster.facts, reading.rendering.pages, max_pixels, _TILES)
        found = [_picture(name + more, path, view, raster.facts) for more, listed in views for view in listed]
        yield NewFile(path, canvases(found), reading, raster=raster)


def _photo(path: Path, name: str, reading: Reading, max_pixels: int) -> NewFile:
    photo = decode(path, max_pixels, advice=_TILES)
    return NewFile(path, canvases([NewPicture(name, str(path), *photo.shape[:2])]), reading, photo)


def _picture(name: str, path: Path, view: View, facts: Facts) -> NewPicture:
    height, width = facts.levels[view.level] if view.window is None else view.window[2:]
    own = name if view.window is None else window_id(name, *view.window[:2])
    return NewPicture(own, str(path), height, width, view.text())

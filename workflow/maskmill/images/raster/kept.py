"""The files that were opened last stay open: all pages and windows of one are read one after the other."""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from maskmill.images.decode import MAX_PIXELS
from maskmill.images.raster.facts import Raster
from maskmill.images.raster.opening import open_raster
from maskmill.images.raster.still import DeepRaster, PhotoRaster

_MOST = 4  # an image and its label, and what another thread reads
_Key = tuple[str, int, int, int, int]  # path, inode, size, time in ns, and the most pixels

_lock = threading.Lock()
_kept: list[tuple[_Key, Raster]] = []
_inherited: list[tuple[_Key, Raster]] = []


@contextmanager
def kept_raster(path: str | Path, max_pixels: int = MAX_PIXELS) -> Iterator[Raster]:
    """As `open_raster`, but a file that this process has opened before is not opened again as long as it is the same.

    Nobody else reads a raster meanwhile: who asks for the same file opens it once more. Photos and Zarr folders, of
    which opening costs nothing, are closed at the end, and so is a file in which an error was found.
    """
    key = _key(path, max_pixels)
    raster = _taken(key) or open_raster(path, max_pixels)
    try:
        yield raster
    except BaseException:
        raster.close()
        raise
    if os.path.isdir(path) or isinstance(raster, (PhotoRaster, DeepRaster)):
        raster.close()
    else:
        _keep(key, raster)


def _key(path: str | Path, max_pixels: int) -> _Key:
    name = os.path.abspath(path)
    stat = os.stat(name)
    return name, stat.st_ino, stat.st_size, stat.st_mtime_ns, max_pixels


def _taken(key: _Key) -> Raster | None:
    with _lock:
        place = next((i for i, (each, _) in enumerate(_kept) if each == key), None)
        return None if place is None else _kept.pop(place)[1]


def _keep(key: _Key, raster: Raster) -> None:
    with _lock:
        _kept.append((key, raster))
        old = [_kept.pop(0)[1] for _ in range(len(_kept) - _MOST)]
    for each in old:
        each.close()


def _close_all() -> None:
    with _lock:
        while _kept:
            _kept.pop()[1].close()


def _forget() -> None:
    """In a forked process: it shares the places in the files with its parent, so it reads others.

    Those are not closed, as a lock of their libraries may be held by a thread that the process does not have.
    """
    global _lock
    _lock = threading.Lock()
    _inherited.extend(_kept)
    _kept.clear()


atexit.register(_close_all)
os.register_at_fork(after_in_child=_forget)

"""Reading every image once: size and digest, or why it is rejected. Runs in worker processes."""

from __future__ import annotations

import hashlib
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TypeVar

import numpy as np

from maskmill.errors import InputError
from maskmill.images.decode import displayed_size, read_file, verify
from maskmill.images.raster import open_raster, values_bytes
from maskmill.images.raster.opening import is_ordinary
from maskmill.images.rendering import Rendering
from maskmill.images.view import View
from maskmill.inputs._cut import pictures
from maskmill.inputs._sources import VIDEO_SUFFIXES
from maskmill.inputs._windows import name_of
from maskmill.inputs.reading import Reading, check_whole
from maskmill.recipe.inputs import Inputs
from maskmill.store.seal import bytes_crc32c
from maskmill.urls import REFUSED, is_url

A = TypeVar("A")
B = TypeVar("B")
Checked = tuple["Part", ...] | str  # the pictures of a file, or the reason of a rejection
_PLAIN, _AS_DECLARED = Inputs(), Rendering()
_CHUNK = 32  # files a task
_FEW = 64  # below this a pool costs more than it saves; but where every file is long
EMPTY = "nothing but nodata or bare background; set inputs.window.skip_empty: false to keep it"


@dataclass(frozen=True, slots=True)
class Part:
    """One picture of a file: all of it, or a page or window with a name and a view of its own.

    Attributes:
        digest: names the content and how it is read. height, width: as displayed. bytes, crc32c: of the file, or of a
            window's decoded values. name: what follows the id of the file, such as `/y000512x001024`; empty for all of
            it. view: see maskmill.images.view; None for a photo.
    """

    digest: str
    height: int
    width: int
    bytes: int
    crc32c: int
    name: str = ""
    view: str | None = None


def check_all(paths: Sequence[str], settings: Inputs, rendering: Rendering, threads: int) -> Iterator[Checked]:
    """`check_file` of every path, in order, by `threads` processes (1: in this one)."""
    work = partial(check_file, settings=settings, rendering=rendering)
    return in_processes(work, paths, threads, long=settings.window is not None)


def in_processes(work: Callable[[A], B], given: Sequence[A], threads: int, long: bool = False) -> Iterator[B]:
    """`work` of everything given, in order, by `threads` processes (1: in this one).

    Args:
        long: one of them may take seconds, so that few of them are divided too.

    Raises:
        InputError: the system killed a process.
    """
    if threads <= 1 or len(given) < (2 if long else _FEW):
        yield from map(work, given)
        return
    try:
        with ProcessPoolExecutor(min(threads, len(given)), mp_context=multiprocessing.get_context("spawn")) as pool:
            files = iter(given)  # by the hundred thousand: a queue of millions of tasks would only fill memory
            while block := list(islice(files, 100_000)):
                yield from pool.map(work, block, chunksize=1 if long else _CHUNK)
    except BrokenProcessPool:
        raise InputError(
            f"a process that decoded images was killed, most likely for want of memory; run with less than "
            f"{threads} threads or more mem_mb"
        ) from None


def check_file(path: str, settings: Inputs = _PLAIN, rendering: Rendering = _AS_DECLARED) -> Checked:
    """The pictures of an image file, or why it is rejected; the file is read once.

    With `inputs.window`, a larger image becomes its windows, or is EMPTY where all of them are, and `max_pixels` is
    asked only of files that have to be decoded as a whole. The digest names the content; the CRC32C is what every later
    stage compares, at a thirtieth of the time.
    """
    try:
        path.encode()
    except UnicodeEncodeError:
        return "the file name is not valid UTF-8; rename it"
    if is_url(path):
        return REFUSED
    try:
        if path.lower().endswith(VIDEO_SUFFIXES):
            return "a video of which no frame was read (logs/inputs.log says why); convert it, for example to MP4"
        if settings.window is None and rendering.whole and is_ordinary(path):
            return (_photo(path, settings),)
        return tuple(_parts(path, settings, rendering)) or EMPTY
    except InputError as error:
        return str(error)
    except OSError as error:
        return error.strerror or str(error)


def _photo(path: str, settings: Inputs) -> Part:
    """All of a file, as a photo."""
    body = read_file(path, settings.max_pixels)
    height, width = (verify if settings.verify == "full" else displayed_size)(body, settings.max_pixels)
    return Part(hashlib.blake2b(body, digest_size=8).hexdigest(), height, width, len(body), bytes_crc32c(body))


def _parts(path: str, settings: Inputs, rendering: Rendering) -> Iterator[Part]:
    """The pictures of a file that is more than a photo; their values are read, whatever `verify` says."""
    with open_raster(path, settings.max_pixels) as raster:
        reading = Reading(rendering, settings.window)
        found = reading.views(raster.facts)
        if reading.is_photo(raster.facts, found):
            yield _photo(path, settings)
            return
        if settings.window is None:
            check_whole(raster.facts, rendering.pages, settings.max_pixels)
        skips = settings.window is not None and settings.window.skip_empty
        for name, views in found:
            for view, raw in pictures(raster, views, skips):
                yield viewed(view, raw, name)


def viewed(view: View, raw: np.ndarray, name: str = "") -> Part:
    """A picture that is not a whole photo, by its stored values [h, w, channels]; `name` of the page that it is of."""
    body, text = values_bytes(raw), view.text()
    digest = hashlib.blake2b(body, digest_size=8)
    digest.update(text.encode())
    height, width = raw.shape[:2]
    return Part(digest.hexdigest(), height, width, len(body), bytes_crc32c(body), name + name_of(view), text)

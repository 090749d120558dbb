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
from maskmill.images.decode import MAX_PIXELS, displayed_size, read_file, verify
from maskmill.images.raster import open_raster, values_bytes
from maskmill.images.view import View
from maskmill.inputs._cut import pictures, views_of
from maskmill.inputs._windows import name_of
from maskmill.recipe.sections import Window
from maskmill.store.seal import bytes_crc32c
from maskmill.urls import REFUSED, is_url

A = TypeVar("A")
B = TypeVar("B")
Checked = tuple["Part", ...] | str  # the pictures of a file, or the reason of a rejection
_CHUNK = 32  # files a task
_FEW = 64  # below this a pool costs more than it saves


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


def check_all(
    paths: Sequence[str], full: bool, threads: int, max_pixels: int = MAX_PIXELS, window: Window | None = None
) -> Iterator[Checked]:
    """`check_file` of every path, in order, by `threads` processes (1: in this one)."""
    return in_processes(partial(check_file, full=full, max_pixels=max_pixels, window=window), paths, threads)


def in_processes(work: Callable[[A], B], given: Sequence[A], threads: int) -> Iterator[B]:
    """`work` of everything given, in order, by `threads` processes (1: in this one).

    Raises:
        InputError: the system killed a process.
    """
    if threads <= 1 or len(given) < _FEW:
        yield from map(work, given)
        return
    try:
        with ProcessPoolExecutor(threads, mp_context=multiprocessing.get_context("spawn")) as pool:
            files = iter(given)  # by the hundred thousand: a queue of millions of tasks would only fill memory
            while block := list(islice(files, 100_000)):
                yield from pool.map(work, block, chunksize=_CHUNK)
    except BrokenProcessPool:
        raise InputError(
            f"a process that decoded images was killed, most likely for want of memory; run with less than "
            f"{threads} threads or more mem_mb"
        ) from None


def check_file(path: str, full: bool, max_pixels: int = MAX_PIXELS, window: Window | None = None) -> Checked:
    """The pictures of an image file, or why it is rejected; the file is read once.

    With `window`, a larger image becomes its windows, and `max_pixels` is asked only of files that have to be decoded
    as a whole. The digest names the content; the CRC32C is what every later stage compares, at a thirtieth of the time.
    """
    try:
        path.encode()
    except UnicodeEncodeError:
        return "the file name is not valid UTF-8; rename it"
    if is_url(path):
        return REFUSED
    try:
        parts = None if window is None else _windows(path, window, max_pixels)
        if parts is not None:
            return parts
        body = read_file(path, max_pixels)
        height, width = (verify if full else displayed_size)(body, max_pixels)
    except InputError as error:
        return str(error)
    except OSError as error:
        return error.strerror or str(error)
    return (Part(hashlib.blake2b(body, digest_size=8).hexdigest(), height, width, len(body), bytes_crc32c(body)),)


def _windows(path: str, window: Window, max_pixels: int) -> tuple[Part, ...] | None:
    """The windows of a file; None where it is a picture no larger than one."""
    with open_raster(path, max_pixels) as raster:
        views = views_of(raster.facts, View(), window)
        if views == [View()]:
            return None
        return tuple(viewed(view, raw) for view, raw in pictures(raster, views, window.skip_empty))


def viewed(view: View, raw: np.ndarray, name: str = "") -> Part:
    """A picture that is not a whole photo, by its stored values [h, w, channels]; `name` of the page that it is of."""
    body, text = values_bytes(raw), view.text()
    digest = hashlib.blake2b(body, digest_size=8)
    digest.update(text.encode())
    height, width = raw.shape[:2]
    return Part(digest.hexdigest(), height, width, len(body), bytes_crc32c(body), name + name_of(view), text)

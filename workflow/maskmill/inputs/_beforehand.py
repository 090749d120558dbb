"""What the headers of a few files tell before any is decoded: settings that fit none of them, channels that differ.

Without this, every file of a large data set would be decoded, or rejected one by one, to say the same of all.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence

from maskmill.errors import InputError
from maskmill.images.raster import Facts, open_raster
from maskmill.images.rendering import ALL, Rendering, check_pages, chosen_channels
from maskmill.images.view import View
from maskmill.inputs._channels import disagreement
from maskmill.recipe.inputs import Inputs

FILES = 64  # whose headers are looked at


def file_hash(path: str) -> bytes:
    """By which files are drawn: the last two parts of their paths say it, wherever the data lie."""
    name = os.fsencode("/".join(path.split("/")[-2:]))
    return hashlib.blake2b(name, digest_size=8).digest()


def check_sample(paths: Sequence[str], settings: Inputs) -> None:
    """Look at the headers of a sample of the files that can be read; of none where the settings ask for nothing.

    Raises:
        InputError: none of them has the channels of `inputs.channels` or `inputs.composites`; the pages of all differ
            in size, and `inputs.pages` asks for more than the first; with `channels: all`, they differ in number.
    """
    given = settings.channels is not None or settings.composites is not None
    if not given and settings.pages == "first":
        return
    found = list(_headers(sorted(paths, key=file_hash), settings.max_pixels))
    if found and settings.pages != "first":
        _check_pages(found, settings.pages)
    for name, channels in Rendering.of(settings).composites.items():
        if channels == ALL:
            counts = ((View(channels=chosen_channels(facts, channels)).count, path) for path, facts in found)
            disagreement(counts)
        elif channels is not None and found:
            key = f"inputs.composites.{name}" if name else "inputs.channels"
            _check_channels(found, key, channels)


def _headers(paths: Sequence[str], max_pixels: int) -> Iterator[tuple[str, Facts]]:
    left = FILES
    for path in paths:
        try:
            with open_raster(path, max_pixels) as raster:
                yield path, raster.facts
        except (InputError, OSError, ValueError):
            continue  # the check says why
        left -= 1
        if not left:
            return


def _check_channels(found: Sequence[tuple[str, Facts]], key: str, channels: tuple[int | str, ...]) -> None:
    faults = []
    for path, facts in found:
        try:
            chosen_channels(facts, channels)
            return
        except InputError as error:
            faults.append(f"{path}: {error}")
    raise InputError(f"{key}: {list(channels)}: not in {_these(len(faults))}; the first: {faults[0]}")


def _check_pages(found: Sequence[tuple[str, Facts]], pages: str) -> None:
    faults = []
    for path, facts in found:
        try:
            check_pages(facts, pages)
            return
        except InputError as error:
            faults.append(f"{path}: {error}")
    raise InputError(f"inputs.pages: {pages}: does not fit {_these(len(faults))}; the first: {faults[0]}")


def _these(count: int) -> str:
    return "the only file that was looked at" if count == 1 else f"any of the {count} files that were looked at"

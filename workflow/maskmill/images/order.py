"""Which images follow one another: the frames of a video, the pages of a file, or the images of a folder.

Nothing of this is stored. It follows from the rows of the manifest, whose order is that of the ids; because shards are
runs of that order, the rows of one shard give runs of the same sequences.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from maskmill.errors import InputError
from maskmill.store.manifest import Row

Order = Literal["files", "folder"]

_FRAME = re.compile(r".*/frames/[^/]+-[0-9a-f]{8}/\d{6,}\.png", re.DOTALL)  # as the stage inputs writes them
_PAGE = re.compile(r"/p\d{4,}(?=/|$)")
_NONE = (
    "no image follows another: there are no videos and no files whose pages are pictures (inputs.pages: all); for a "
    "folder of frames or slices set {key}.order: folder"
)


@dataclass(frozen=True)
class Place:
    """Where an image stands: its sequence by name, and its place in it, from 0."""

    sequence: str
    position: int


def sequence_of(row: Row, order: Order) -> str | None:
    """The name of the sequence that an image is part of, or None for an image by itself.

    A page of a file belongs to the pages of its file, a frame to its video. With `folder`, any other image belongs to
    the images of its folder. Windows (and composites) of images that follow one another are sequences of their own, one
    for each place: `<video>/y0000000x0000512`.
    """
    owner = row.parent or row.id
    part = row.id[len(owner) :]  # of a page /p0003, of a window /y...x..., with a composite's name between
    page = _PAGE.match(part)
    if page is not None and row.view is not None:
        return owner + part[page.end() :]
    if order == "folder" or _FRAME.fullmatch(row.path):
        return (owner.rpartition("/")[0] or ".") + part
    return None


def sequences(rows: Iterable[Row], order: Order) -> dict[str, list[Row]]:
    """The rows of every sequence in their order, also of sequences of one image; sorted by name.

    Args:
        rows: in the order of the ids: all, or those of one shard.
    """
    found: dict[str, list[Row]] = {}
    for row in rows:
        name = sequence_of(row, order)
        if name is not None:
            found.setdefault(name, []).append(row)
    return dict(sorted(found.items()))


def ordered(rows: Iterable[Row], order: Order, key: str) -> dict[str, list[Row]]:
    """The sequences of all images that have at least two.

    Args:
        key: the section that asks, for the message.

    Raises:
        InputError: there is none.
    """
    found = {name: each for name, each in sequences(rows, order).items() if len(each) > 1}
    if not found:
        raise InputError(f"{key}: {_NONE.format(key=key)}")
    return found


def places(found: Mapping[str, Sequence[Row]]) -> Iterator[tuple[str, Place]]:
    """(image id, its place) of every image of some sequences."""
    for name, rows in found.items():
        for i, row in enumerate(rows):
            yield row.id, Place(name, i)

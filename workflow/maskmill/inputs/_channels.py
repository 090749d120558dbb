"""With `inputs.channels: all`, how many channels the pictures of a data set have: all of them as many."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa

from maskmill.errors import InputError
from maskmill.images.rendering import Rendering
from maskmill.images.view import View

SHOWN = 3


def disagreement(counts: Iterable[tuple[int, str]]) -> int | None:
    """The number of channels of all files, given for each with its path; None where there are no files.

    Raises:
        InputError: they differ; names a file of the rarest number, and one of the most frequent.
    """
    files: dict[int, int] = {}
    first: dict[int, str] = {}
    for count, path in counts:
        files[count] = files.get(count, 0) + 1
        first.setdefault(count, path)
    if len(files) > 1:
        order = sorted(files, key=lambda count: (files[count], count))
        odd, usual = order[0], order[-1]
        raise InputError(
            f"inputs.channels: all: {first[odd]} has {odd} channels, but {first[usual]} has {usual}; all images must "
            "have as many (a photo, also a grey one, has three): leave files out, or name channels that all have"
        )
    return next(iter(files), None)


def agreed(table: pa.Table, rendering: Rendering) -> Rendering:
    """The rendering of a run whose files were all seen (`maskmill.inputs._checked.SCHEMA`), with what it has decided.

    Raises:
        InputError: see `disagreement`.
    """
    if not rendering.all_channels:
        return rendering
    good = table.filter(table["reason"].is_null()).select(["path", "view"])
    shown: set[tuple[int, ...]] = set()

    def counts() -> Iterator[tuple[int, str]]:
        for path, text in zip(good["path"].to_pylist(), good["view"].to_pylist(), strict=True):
            view = View() if text is None else View.of(text)
            shown.add((view.channels or ())[:SHOWN])
            yield view.count, os.fsdecode(path)

    count = disagreement(counts()) or SHOWN
    _say(count, sorted(shown))
    return rendering.of_channels(count)


def _say(count: int, shown: Sequence[tuple[int, ...]]) -> None:
    """What the backbones see, and what people do."""
    if count == SHOWN:
        text = "which are the three that are shown, as without channels: all"
    else:
        these = " or ".join(str(list(each if len(each) == SHOWN else each[:1])) for each in shown)
        text = f"all of which the backbones see; the report, refinement and students of photos see {these} of the file"
    print(f"inputs: pictures of {count} channels, {text}", file=sys.stderr)

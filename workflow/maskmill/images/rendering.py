"""How the files of a data set become pictures: one range for each kind of file, channels, pages. See docs/inputs.md."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from maskmill.errors import InputError, StoreError
from maskmill.images.raster.facts import Facts
from maskmill.images.view import View
from maskmill.recipe import sensors
from maskmill.recipe.inputs import Inputs

Channels = tuple[int | str, ...] | Literal["all"] | None  # None: the colours that a file declares
Range = tuple[tuple[float, ...], tuple[float, ...]]  # low and high of every channel of a file

ALL: Literal["all"] = "all"


def kind_of(facts: Facts) -> str:
    """What files have in common that have one range: type of values and number of channels, `uint16 x 4`."""
    return f"{facts.dtype.name} x {facts.channels}"


@dataclass(frozen=True)
class Rendering:
    """What `inputs` decided for a data set, and what new images are read with.

    Attributes:
        pages: first, all, max or mean. composites: name -> channels, or None as the file declares, or `all`. The
            name is empty where a file is one picture.
        ranges: kind of file -> low and high of each channel; kinds without a range are shown from 0 to the largest
            value of their type. undecided: no sample was drawn; a kind without a range is taken as its type says.
        whole: photos of eight bits are read as they always were. count: with `all`, how many channels the pictures of
            the run have; None before all files were seen.
    """

    pages: str = "first"
    composites: Mapping[str, Channels] = field(default_factory=lambda: {"": None})
    ranges: Mapping[str, Range] = field(default_factory=dict)
    undecided: bool = True
    whole: bool = True
    count: int | None = None

    @classmethod
    def of(cls, settings: Inputs, ranges: Mapping[str, Range] | None = None) -> Rendering:
        """What the section `inputs` asks for, with the ranges that were decided."""
        if settings.composites is not None:
            composites: dict[str, Any] = {name: sensors.numbers(c) for name, c in settings.composites.items()}
        elif settings.channels is None or settings.channels == "all":
            composites = {"": settings.channels}
        else:
            composites = {"": sensors.numbers(settings.channels)}
        whole = composites in ({"": None}, {"": ALL}) and settings.range in ("auto", "dtype")
        undecided = ranges is None or settings.range == "dtype"
        return cls(settings.pages, composites, ranges or {}, undecided, whole)

    @property
    def chosen(self) -> bool:
        """Whether new images have to know of it, though all of the run may have been photos of eight bits."""
        return bool(self.ranges) or not self.whole or self.pages != "first" or self.count is not None

    def text(self) -> str:
        """JSON, always the same for the same decisions."""
        body = {
            "pages": self.pages,
            "composites": {name: list(c) if isinstance(c, tuple) else c for name, c in self.composites.items()},
            "ranges": {kind: [list(low), list(high)] for kind, (low, high) in self.ranges.items()},
            "undecided": self.undecided,
            "whole": self.whole,
        } | ({} if self.count is None else {"count": self.count})
        return json.dumps(body, sort_keys=True, separators=(",", ":"))

    @classmethod
    def read(cls, text: str) -> Rendering:
        """What `text` gave; anything else is a StoreError."""
        try:
            body = json.loads(text)
            composites = {name: tuple(c) if isinstance(c, list) else c for name, c in body["composites"].items()}
            ranges = {kind: (tuple(low), tuple(high)) for kind, (low, high) in body["ranges"].items()}
            return cls(body["pages"], composites, ranges, body["undecided"], body["whole"], body.get("count"))
        except (ValueError, TypeError, KeyError, AttributeError):
            raise StoreError(f"rendering {text[:80]!r} is not one of maskmill; run snakemake again") from None

    @property
    def all_channels(self) -> bool:
        """Whether backbones see every channel of a file."""
        return ALL in self.composites.values()

    def of_channels(self, count: int) -> Rendering:
        """The same for a run whose pictures have so many channels; other files are refused from now on."""
        return replace(self, count=count, whole=self.whole and count == 3)

    def as_photo(self, facts: Facts) -> bool:
        """Whether a whole file is read as a photo of eight bits, without a view."""
        one = self.pages == "first" or (facts.pages == 1 and not facts.uneven)
        return self.whole and facts.plain and one

    def pictures(self, facts: Facts) -> Iterator[tuple[str, View]]:
        """What each picture of a file adds to the id of the file, and how it is read; pages first, then composites.

        Raises:
            InputError: the file has not the channels, its pages differ in size, or nothing is known of its range; the
                reason without the path.
        """
        check_pages(facts, self.pages)
        for name, channels in self.composites.items():
            chosen = chosen_channels(facts, channels)
            plain = View(channels=chosen)
            if self.count not in (None, plain.count):
                raise InputError(
                    f"has {plain.count} channels, the images of the run have {self.count} (inputs.channels: all)"
                )
            low, high = self._range(facts, facts.colours if chosen is None else chosen)
            plain = replace(plain, low=low, high=high)
            for page, view in self._paged(facts, plain):
                yield page + (f"/{name}" if name else ""), view

    def _paged(self, facts: Facts, view: View) -> Iterator[tuple[str, View]]:
        if facts.pages == 1 or self.pages == "first":
            yield "", view
        elif self.pages in ("max", "mean"):
            yield "", replace(view, page=self.pages)
        else:
            digits = max(4, len(str(facts.pages - 1)))
            yield from ((f"/p{page:0{digits}d}", replace(view, page=page)) for page in range(facts.pages))

    def _range(
        self, facts: Facts, chosen: Sequence[int]
    ) -> tuple[tuple[float, ...], tuple[float, ...]] | tuple[None, None]:
        if facts.palette is not None and chosen == facts.colours:
            return None, None
        found = self.ranges.get(kind_of(facts)) or self.ranges.get("")
        if found is None:
            if self.undecided or facts.dtype.itemsize == 1:
                return None, None
            known = ", ".join(self.ranges) or "none"
            raise InputError(
                f"values of {kind_of(facts)} channels, and no file of the sample that inputs.range is decided from has "
                f"such ({known}); set inputs.range: [low, high] or dtype"
            )
        low, high = found
        if len(low) == 1:
            return low, high
        return tuple(low[i] for i in chosen), tuple(high[i] for i in chosen)


def check_pages(facts: Facts, pages: str) -> None:
    """Raise InputError where pages that differ in size are asked for; the reason without the path."""
    if facts.uneven and pages != "first":
        raise InputError(
            f"its pages differ in size, so inputs.pages: {pages} cannot be done; save pages of one size, or "
            "set inputs.pages: first"
        )


def chosen_channels(facts: Facts, channels: Channels) -> tuple[int, ...] | None:
    """The numbers of channels of a file; None for those that it declares as its colours.

    All channels are these colours, or the first three, and then the others in their order, so that a picture begins
    with what is shown of it. Opacity is none of them; palettes, CMYK and Lab stand for three colours.

    Raises:
        InputError: the file has not all of them; the reason without the path.
    """
    if channels is None:
        return None
    if channels == ALL:
        others = (i for i in range(facts.channels) if i not in facts.colours and i != facts.alpha)
        every = *facts.colours, *others
        return None if every == facts.colours or facts.space in ("palette", "cmyk", "lab") else every
    return tuple(_number(facts, channel) for channel in channels)


def _number(facts: Facts, channel: int | str) -> int:
    if isinstance(channel, int):
        if channel >= facts.channels:
            raise InputError(f"has no channel {channel}: its {facts.channels} are counted from 0; set inputs.channels")
        return channel
    names = facts.names or ()
    if channel not in names:
        known = ", ".join(names) or "it names none"
        raise InputError(f"has no channel {channel!r} ({known}); set inputs.channels to numbers from 0")
    return names.index(channel)

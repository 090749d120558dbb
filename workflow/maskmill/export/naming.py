"""Names and colours of mask values, the same in every file that export writes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from maskmill.errors import InputError, shown
from maskmill.images.palette import BACKGROUND, IGNORE, hexadecimal, palette, png_palette
from maskmill.store.class_names import check_class_name

BACKGROUND_NAME = "background"


@dataclass(frozen=True)
class Naming:
    """What the mask values 0..k are called, and their colours.

    Attributes:
        names: of 0..k; any printable text, each once; the first is the background.
        colours: uint8 [k + 1, 3], RGB. kind: `cluster` or `class`, the supercategory of COCO categories.
    """

    names: tuple[str, ...]
    colours: np.ndarray
    kind: str = "cluster"

    @classmethod
    def default(cls, clusters: int) -> Naming:
        """`background`, `cluster_1` .. `cluster_<clusters>` in the palette's colours."""
        names = (BACKGROUND_NAME, *(f"cluster_{cluster}" for cluster in range(1, clusters + 1)))
        return cls(names, palette(clusters + 1))

    @classmethod
    def of(cls, classes: Iterable[Mapping[str, Any]]) -> Naming:
        """Named classes in the order of their mask values, the first is 1.

        A class without a colour gets the palette's. Tools that read colours instead of indices must tell classes apart:
        a colour that an earlier class, the background or ignore has is moved by the least that makes it another.

        Args:
            classes: each with `name` and optionally `colour` (`#rrggbb`, or three numbers 0..255).

        Raises:
            InputError: a name is empty, has a line break or another control character, is given twice or is that of the
                background; a colour is none. Names the class.
        """
        listed = list(classes)
        names = [BACKGROUND_NAME]
        for each in listed:
            names.append(_checked(each.get("name"), names))
        colours = palette(len(names))
        taken = {BACKGROUND, IGNORE}
        for value, each in enumerate(listed, 1):
            given = each.get("colour")
            wanted = tuple(int(c) for c in colours[value]) if given is None else _colour(given, names[value])
            taken.add(unique := _unlike(wanted, taken))
            colours[value] = unique
        return cls(tuple(names), colours, "class")

    @property
    def facts(self) -> dict[str, Any]:
        """{"classes": [{id, name, colour}, ...]} of named classes, for what `maskmill predict` writes; else nothing."""
        listed = range(1, len(self.names)) if self.kind == "class" else ()
        found = [{"id": v, "name": self.names[v], "colour": self.hexadecimal(v)} for v in listed]
        return {"classes": found} if found else {}

    @property
    def count(self) -> int:
        """Clusters or classes, without the background."""
        return len(self.names) - 1

    def hexadecimal(self, value: int) -> str:
        """`#rrggbb` of a mask value."""
        return hexadecimal(self.colours[value])

    def png_palette(self) -> bytes:
        """RGB of the 256 values of an indexed mask of at most 254 clusters: 255 is ignore, and so is the rest."""
        return png_palette(self.colours)


def _checked(name: Any, before: list[str]) -> str:
    if not isinstance(name, str) or not name.strip():
        raise InputError(f"class {len(before)}: name: {shown(name)} is no name; give it some text")
    name = name.strip()
    try:
        check_class_name(name)
    except ValueError:
        message = f"class {len(before)}: name: {shown(name)} has a line break or another control character"
        raise InputError(message) from None
    if name in before:
        raise InputError(f"class {len(before)}: name: {shown(name)} is taken; give each class a name of its own")
    return name


def _colour(given: Any, name: str) -> tuple[int, int, int]:
    try:
        if isinstance(given, str):
            parts = list(bytes.fromhex(given.removeprefix("#")))
        else:
            parts = [int(part) for part in given]
        red, green, blue = parts
        if min(parts) < 0 or max(parts) > 255:
            raise ValueError
    except (TypeError, ValueError):
        raise InputError(f"class {name!r}: colour: {shown(given)} is no colour; write it as '#804080'") from None
    return red, green, blue


def _unlike(wanted: tuple[int, ...], taken: set[tuple[int, int, int]]) -> tuple[int, int, int]:
    """The colour, or the nearest that is not taken: blue is moved first, where an eye sees it least."""
    red, green, blue = wanted
    number = (red << 16) | (green << 8) | blue
    for step in range(2**24):
        for moved in (number + step, number - step):
            if 0 <= moved < 2**24:
                colour = (moved >> 16, (moved >> 8) & 255, moved & 255)
                if colour not in taken:
                    return colour
    raise InputError("classes: more than there are colours")

"""What the classes of a recipe are called: `classes.json` of the stage taxonomy, as the stages that follow read it."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskmill.errors import StoreError, shown
from maskmill.store.artefact import read_json

RESERVED_WORDS = ("background", "ignore")  # which are no classes


def check_class_name(name: str) -> None:
    """Raises ValueError where a name is none: empty, with blanks at its ends, or with what no file can hold."""
    if not name.strip():
        raise ValueError("a class has a name of at least one letter")
    odd = any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") or ord(c) & 0xFFFE == 0xFFFE for c in name)
    if name != name.strip() or odd:
        raise ValueError(f"{shown(name)}: a name has no line break or control character, and no blank at its ends")


def case_twins(names: Iterable[str]) -> list[str]:
    """A sentence for each group of names, or of names and the reserved words, that differ only in case."""
    groups: dict[str, list[str]] = {word: [word] for word in RESERVED_WORDS}
    for name in names:
        groups.setdefault(name.casefold(), []).append(name)
    return [
        f"{', '.join(map(repr, group))}: these names differ only in case, and are not the same class; write them alike "
        "if they are"
        for group in groups.values()
        if len(group) > 1
    ]


@dataclass(frozen=True)
class NamedClass:
    """A class: its value in the masks, 1..K, its name and colour (#rrggbb), and the clusters that it owns."""

    value: int
    name: str
    colour: str
    clusters: tuple[str, ...]


@dataclass(frozen=True)
class ClassNames:
    """The classes of a recipe in the order of their values.

    Attributes:
        examples: ids of the images whose labels made the classes; a score on these says nothing.
        body: the whole file. hash: of what made it.
    """

    classes: tuple[NamedClass, ...]
    examples: tuple[str, ...]
    body: Mapping[str, Any]
    hash: str

    @property
    def label_ids(self) -> dict[int, int]:
        """Value of the masks -> label id, of classes that labels made; empty for others."""
        return {int(value): int(label) for value, label in self.body.get("label_ids", {}).items()}

    @property
    def names(self) -> dict[int, str]:
        """Value of the masks -> name, background (0) included."""
        return {0: "background"} | {each.value: each.name for each in self.classes}


def read(path: str | Path) -> ClassNames:
    """Read classes.json; any other file is a StoreError."""
    body = read_json(path)
    try:
        classes = tuple(
            NamedClass(int(each["id"]), str(each["name"]), str(each["colour"]), tuple(each["clusters"]))
            for each in body["classes"]
        )
        return ClassNames(classes, tuple(body["examples"]), body, str(body["provenance"]["hash"]))
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{path}: not a classes.json of maskmill ({error!r}); delete it and run again") from None

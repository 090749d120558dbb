"""The words of the source `text`: names of classes, their phrases, and the sentences that an image-text model reads."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from maskmill.errors import shown
from maskmill.taxonomy._document import RESERVED

# The seven that CLIP's authors chose for ImageNet among their eighty.
TEMPLATES = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)
ARTICLE = re.compile(r"^(?:a|an|the) (?=\S)", re.IGNORECASE)
LONGEST = 200  # letters of a name


def named(value: Any) -> Any:
    """{class: [phrases]} of a mapping with one phrase or several each, or of a list of names.

    In a list a name is its own phrase, with blanks for underscores.
    """
    if isinstance(value, list | tuple):
        for each in value:
            if not isinstance(each, str):
                raise ValueError(f"{shown(each)} is no name; quote it, or write class: phrase")
            if list(value).count(each) > 1:
                raise ValueError(f"{each!r} is given twice; keep one")
        return {each: [each.replace("_", " ")] for each in value}
    if isinstance(value, Mapping):
        return {name: [said] if isinstance(said, str) else said for name, said in value.items()}
    return value


def check(names: Mapping[str, Sequence[str]], background: Mapping[str, Sequence[str]]) -> None:
    """Raises ValueError where a name or a phrase is empty, reserved, or stands for two things."""
    if not names:
        raise ValueError("names: empty; name at least one class, for example names: [road, car]")
    owners: dict[str, str] = {}
    for key, classes in (("names", names), ("background", background)):
        for name, phrases in classes.items():
            _check_name(key, name)
            if key == "background" and name in names:
                raise ValueError(f"background: {name!r} is a class of names as well; keep one")
            if not phrases:
                raise ValueError(f"{key}: {name}: without a phrase; write what it is called, as {name}: a word")
            for phrase in phrases:
                _claim(f"{key}: {name}", name, phrase, owners)


def _check_name(key: str, name: str) -> None:
    if name in RESERVED:
        raise ValueError(
            f"{key}: {name!r} is reserved; list what becomes background under background:, by its own name"
        )
    if not name or len(name) > LONGEST or name != name.strip() or not name.isprintable():
        raise ValueError(f"{key}: {shown(name)} is no name; use 1 to {LONGEST} letters, no blank at the ends")


def _claim(where: str, name: str, phrase: str, owners: dict[str, str]) -> None:
    """Every phrase is said of one class, once."""
    said = ARTICLE.sub("", phrase.strip()).lower()
    if not said:
        raise ValueError(f"{where}: {phrase!r} is empty; write what the class is called")
    if said in owners:
        twice = "twice" if owners[said] == name else f"also of {owners[said]!r}"
        raise ValueError(f"{where}: {phrase!r} is said {twice}; keep one")
    owners[said] = name


def sentences(phrases: Sequence[str], templates: Sequence[str]) -> list[str]:
    """Every template with every phrase.

    A phrase loses its article where the template has words before it: "a car" becomes "a photo of a car.".
    """
    found = []
    for phrase in phrases:
        bare = ARTICLE.sub("", phrase.strip())
        found += [each.replace("{}", phrase.strip() if each.startswith("{}") else bare) for each in templates]
    return found

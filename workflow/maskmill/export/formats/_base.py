"""What the writers of all formats share."""

from __future__ import annotations

import contextlib
import json
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from maskmill.export._layout import check_inside, place_photo, placed, stem, write_renamed
from maskmill.export._picture import Picture
from maskmill.export.naming import Naming
from maskmill.store.manifest import Row


@dataclass(frozen=True)
class Facts:
    """What all writers of an export know before the first image.

    Attributes:
        naming: of the mask values. title: what made the masks, in words. images: how many will come.
        suffix: of all photos, or None where they differ. instances: whether images come with instances.
        photos: `none`, `link` or `copy`. image_url: what Label Studio finds the name of an image behind.
        things: see `ExportImages`.
    """

    naming: Naming
    title: str
    images: int
    suffix: str | None
    instances: bool = False
    photos: str = "none"
    image_url: str = ""
    things: int | None = None

    def is_thing(self, value: int) -> bool:
        """Whether the objects of a class 1..k are told apart: instances come with the images, and it is no stuff."""
        return self.instances and (self.things is None or value <= self.things)


@dataclass(frozen=True)
class Entry:
    """What a format makes of one image before the image's number and the name of its file are known.

    Attributes:
        text: its part of a file of all images. body: of the image's own file, or a file that has it. photo: the photo,
            ready to be placed; None: it is read where it lies.
    """

    text: str = ""
    body: bytes | Path = b""
    photo: Path | None = None


class Format(ABC):
    """Writes one folder. Files that are open are closed with the context, also where it fails."""

    def __init__(self, folder: Path, facts: Facts) -> None:
        self.folder, self.facts, self.naming = folder, facts, facts.naming
        self._stack = contextlib.ExitStack()
        self._renamed: list[tuple[str, str]] = []

    def __enter__(self) -> Self:
        self.folder.mkdir()
        with contextlib.ExitStack() as stack:
            self._stack = stack
            self.begin()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            if error is None:
                self.end()
                if self._renamed:
                    write_renamed(self.folder / "renamed.csv", self._renamed, "name")

    @abstractmethod
    def begin(self) -> None:
        """Write what comes before the images."""

    @abstractmethod
    def entry(self, picture: Picture) -> Entry:
        """What is made of one image, by itself; `begin` may not have been called."""

    @abstractmethod
    def add(self, row: Row, entry: Entry) -> None:
        """Write one image."""

    @abstractmethod
    def end(self) -> None:
        """Write what comes after the images."""

    def opened(self, name: str) -> TextIO:
        """A new text file of the folder, open until the end."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return self._stack.enter_context(path.open("x", encoding="utf-8", newline="\n"))

    def put(self, row: Row, folder: str, suffix: str, body: bytes | Path, name: str | None = None) -> str:
        """Write a file of an image to a folder of the format's; the name that it got, without the suffix."""
        wanted = stem(row) if name is None else name
        name = placed(self.folder / folder, wanted, suffix, row, body)
        if name != wanted or wanted.startswith("~"):
            self._renamed.append((row.id, name))
        return name

    def photo(self, row: Row, name: str, ready: Path | None) -> None:
        """The photo at a path of the format's folder, where the export has photos; see `Entry.photo`."""
        check_inside(row)
        if self.facts.photos != "none":
            place_photo(row, self.folder / name, self.facts.photos, ready)

    def write(self, name: str, text: str) -> None:
        """A whole text file of the folder."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")

    def write_json(self, name: str, body: Any) -> None:
        """A whole JSON file of the folder."""
        self.write(name, json.dumps(body, indent=1, ensure_ascii=False) + "\n")

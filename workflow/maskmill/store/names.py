"""Names of hidden files beside an artefact, and which of them nobody will finish."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from maskmill.store.hashing import json_hash
from maskmill.store.writer import Writer

LONGEST = 170  # bytes of a name that leave room for what is put around it: file systems end at 255
_OURS = re.compile(r"\.(?P<target>.+)\.(?:tmp-(?P<writer>[0-9a-f-]+)|claim(?:~[0-9a-f-]+)?)")
_ABANDONED = 24 * 3600  # seconds; a writer on another host that has written nothing for so long is gone


@dataclass(frozen=True)
class Leftover:
    """A hidden file or folder that a writer left behind: its path, its bytes, and whether its writer surely is gone."""

    path: Path
    bytes: int
    gone: bool


def beside(path: Path, ending: str) -> Path:
    """The hidden path in the same folder that belongs to `path`."""
    name = path.name if len(os.fsencode(path.name)) <= LONGEST else json_hash(path.name)
    return path.with_name(f".{name}{ending}")


def leftovers(folder: Path) -> Iterator[Leftover]:
    """What writers left in a folder of results and below; finished stores and exports are not looked into."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        found = _OURS.fullmatch(entry.name)
        path = Path(entry.path)
        if found:
            yield Leftover(path, _bytes(path), _gone(path, found["writer"]))
        elif entry.is_dir(follow_symlinks=False) and not entry.name.endswith(".zarr") and entry.name != "export":
            yield from leftovers(path)


def _gone(path: Path, tag: str | None) -> bool:
    if tag is None:  # a claim says in its file whose it is
        try:
            tag = path.read_text() if "~" not in path.name else path.name.rpartition("~")[2]
        except OSError:
            return False
    writer = Writer.parse(tag)
    alive = writer.alive() if writer else None
    return time.time() - _newest(path) > _ABANDONED if alive is None else not alive


def _newest(path: Path) -> float:
    """When something below was last written, in seconds since 1970; now, where it goes away meanwhile."""
    try:
        files = [path, *path.rglob("*")] if path.is_dir() and not path.is_symlink() else [path]
        return max(file.lstat().st_mtime for file in files)
    except OSError:
        return time.time()


def _bytes(path: Path) -> int:
    try:
        files = path.rglob("*") if path.is_dir() and not path.is_symlink() else [path]
        return sum(file.lstat().st_size for file in files)
    except OSError:
        return 0

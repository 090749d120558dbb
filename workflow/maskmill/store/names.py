"""Names of hidden files beside an artefact, and which of them nobody will finish."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from maskmill.store.hashing import json_hash
from maskmill.store.writer import Writer

LONGEST = 170  # bytes of a name that leave room for what is put around it: file systems end at 255
_OURS = re.compile(r"\.(?P<target>.+)\.(?:tmp-(?P<writer>[0-9a-f-]+)|claim(?:~[0-9a-f-]+)?)")
_SHARD = re.compile(r"s[0-9a-f]{10}\.(zarr|parquet)")
_ABANDONED = 24 * 3600  # seconds; a writer on another host that has written nothing for so long is gone


@dataclass(frozen=True)
class Leftover:
    """A hidden file or folder that a writer left behind: its path, its bytes, and whether its writer surely is gone."""

    path: Path
    bytes: int
    gone: bool

    @classmethod
    def of(cls, path: Path) -> Leftover:
        """Of something that no writer will finish."""
        return cls(path, _bytes(path), True)


def beside(path: Path, ending: str) -> Path:
    """The hidden path in the same folder that belongs to `path`."""
    name = path.name if len(os.fsencode(path.name)) <= LONGEST else json_hash(path.name)
    return path.with_name(f".{name}{ending}")


def leftovers(folder: Path) -> Iterator[Leftover]:
    """What writers left in a folder of results and below."""
    for path in _walk(folder):
        found = _OURS.fullmatch(path.name)
        if found:
            yield Leftover(path, _bytes(path), _gone(path, found["writer"]))


def shard_files(folder: Path) -> Iterator[Path]:
    """The stores and tables of shards in a folder of results and below."""
    return (path for path in _walk(folder) if _SHARD.fullmatch(path.name))


def _walk(folder: Path) -> Iterator[Path]:
    """Files and folders in the order of their names; what artefacts and leftovers consist of is not looked at."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        path = Path(entry.path)
        yield path
        whole = entry.name.endswith(".zarr") or entry.name == "export" or entry.name.startswith(".")
        if entry.is_dir(follow_symlinks=False) and not whole:
            yield from _walk(path)


def sweep(*folders: Path) -> list[Leftover]:
    """Remove what writers that are gone left in folders; what was removed."""
    found = [leftover for folder in folders for leftover in leftovers(folder) if leftover.gone]
    for leftover in found:
        with contextlib.suppress(OSError):  # another's, or removed meanwhile
            remove(leftover.path)
    return found


def remove(path: Path) -> None:
    """Delete a file or a folder tree; absent is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _gone(path: Path, tag: str | None) -> bool:
    if tag is None:  # a claim says in its file whose it is
        try:
            tag = path.read_text() if "~" not in path.name else path.name.rpartition("~")[2]
        except OSError:
            return False
    writer = Writer.parse(tag)
    alive = writer.alive() if writer else None
    if alive is None:  # a claim is written once, so its age says nothing
        return ".claim" not in path.name and time.time() - _newest(path) > _ABANDONED
    return not alive


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

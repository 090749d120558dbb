"""Finding files. Standard library only: the Snakefile evaluates `listing_fingerprint` when it plans."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from stat import S_ISDIR

from maskmill.images.stems import folders, is_store, walk
from maskmill.images.tables import is_table, named_files
from maskmill.reading import is_special

STORE_FILES = 100_000  # of a Zarr folder whose sizes and times are looked at, at every start of Snakemake: 0.3 s


def is_glob(images: str) -> bool:
    """True when `images` is a pattern and not the name of something that exists."""
    return glob.has_magic(images) and not os.path.exists(images)


def glob_files(pattern: str, skipped: list[str] | None = None) -> list[str]:
    """The visible files that match, sorted; `**` matches any folders, each once.

    `skipped` gets the links to folders that were not entered (see `stems.names`).
    """
    again: list[str] = []
    found = sorted({path for path in _matches(pattern, again) if not os.path.isdir(path) or is_store(path)})
    if skipped is not None:
        skipped += again
    return found


def _matches(pattern: str, skipped: list[str]) -> Iterator[str]:
    """As `glob.glob` with `recursive`, which enters folders that link to each other without an end."""
    parts = pattern.split("/")
    if "**" not in parts:
        yield from glob.glob(pattern)
        return
    place = parts.index("**")
    above, below = "/".join(parts[:place]), "/".join(parts[place:]).removeprefix("**").lstrip("/")
    for top in sorted(glob.glob(f"{above}/")) if above else ["/" if place else ""]:
        again: list[str] = []
        for folder in folders(top or ".", again):
            yield from _matches(glob.escape(top + folder) + (below or "*"), skipped)
        skipped += [top + link for link in again]


def listing_fingerprint(images: str | Sequence[str], labels: str | None) -> str:
    """16 hex digits over names, sizes and times of what `images` (one source or several) and `labels` name.

    Changes when files come, go or change, those that a table names and those of a Zarr folder among them. Of a video
    only the file itself is looked at; what does not exist or cannot be listed gives a fingerprint too: the stage itself
    says what is wrong.
    """
    return counted_fingerprint(images, labels)[0]


def counted_fingerprint(images: str | Sequence[str], labels: str | None) -> tuple[str, int]:
    """The same, and how many files `images` names, with those that are no images: the files are listed once."""
    digest, count = hashlib.blake2b(digest_size=8), 0
    for source in (*([images] if isinstance(images, str) else images), labels):
        try:
            for name, stat in _files(source) if source else ():
                count += source is not labels
                digest.update(os.fsencode(name))
                digest.update(f"\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode() if stat else b"\0\n")
                if source and stat and S_ISDIR(stat.st_mode):
                    folder = name if name == source or not os.path.isdir(source) else os.path.join(source, name)
                    _add_store(digest, folder)
        except OSError as error:
            digest.update(f"\0{error.errno}".encode())
        except ValueError as error:  # a damaged table
            digest.update(f"\0{error}".encode())
        digest.update(b"\0")
    return digest.hexdigest(), count


def _add_store(digest: hashlib.blake2b, folder: str) -> None:
    """Names, sizes and times of the files of a Zarr folder: a chunk that is written anew changes nothing of the folder.

    Links are not followed. Beyond `STORE_FILES` files, only the names of the others count, and the times of the folders
    they lie in, which change when a file is replaced by another (as Zarr does) but not when it is written over.
    """
    left, ahead = STORE_FILES, [folder]
    while ahead:
        try:
            here = ahead.pop()
            digest.update(f"\0{os.stat(here).st_mtime_ns}\n".encode())
            with os.scandir(here) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
            for entry in found:
                digest.update(os.fsencode(entry.name) + b"\0")
                if entry.is_dir(follow_symlinks=False):
                    ahead.append(entry.path)
                elif left:
                    left -= 1
                    stat = entry.stat(follow_symlinks=False)
                    digest.update(f"{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
        except OSError as error:  # of a file that goes meanwhile, or a folder that may not be read
            digest.update(f"\0{error.errno}".encode())


def _files(source: str) -> Iterator[tuple[str, os.stat_result | None]]:
    if is_glob(source):
        for path in glob_files(source):
            yield path, _stat(path)
    elif os.path.isdir(source) and not is_store(source):
        yield from walk(source)
    elif os.path.exists(source):
        yield source, os.stat(source)
        if is_table(source):
            yield from ((file, _stat(file)) for file in named_files(source))


def _stat(path: str) -> os.stat_result | None:
    """None of a link to nothing, or of a file that a table names and that is not there."""
    try:
        return os.stat(path)
    except (OSError, ValueError):
        return None


def content_fingerprint(path: str) -> str:
    """16 hex digits over the bytes of one file; nothing where it cannot be read: the stage itself says why.

    For files whose time may change without their content, and of which much depends. Each version is read once a
    process.
    """
    try:
        stat = os.stat(path)
        return "" if is_special(path) else _content(path, stat.st_size, stat.st_mtime_ns)
    except OSError:
        return ""


@lru_cache
def _content(path: str, size: int, mtime_ns: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, partial(hashlib.blake2b, digest_size=8)).hexdigest()

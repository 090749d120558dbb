"""Finding files. Standard library only: the Snakefile evaluates `listing_fingerprint` when it plans."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path


def walk(folder: str | Path) -> Iterator[tuple[str, os.stat_result]]:
    """(relative POSIX path, stat) of every visible file below a folder, sorted; links to folders are followed."""
    root = Path(folder)
    for base, folders, files in os.walk(root, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = Path(base) / name
            if not name.startswith(".") and path.is_file():
                yield path.relative_to(root).as_posix(), path.stat()


def is_glob(images: str) -> bool:
    """True when `images` is a pattern and not the name of something that exists."""
    return any(mark in images for mark in "*?[") and not os.path.exists(images)


def listing_fingerprint(images: str, labels: str | None) -> str:
    """Hash of names, sizes and times of what `images` and `labels` name: changes when files come, go or change."""
    digest = hashlib.blake2b(digest_size=8)
    for source in (images, labels):
        for name, stat in _files(source) if source else ():
            digest.update(f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
        digest.update(b"\0")
    return digest.hexdigest()


def _files(source: str) -> Iterator[tuple[str, os.stat_result]]:
    if is_glob(source):
        for path in sorted(glob.glob(source, recursive=True)):
            yield path, os.stat(path)
    elif os.path.isdir(source):
        yield from walk(source)
    elif os.path.isfile(source):
        yield source, os.stat(source)

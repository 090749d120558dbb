"""How the files of an image are called in the folders of an export, and photos beside them."""

from __future__ import annotations

import csv
import errno
import io
import os
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from maskmill.errors import InputError, StoreError
from maskmill.images.decode import image_bytes, is_turned
from maskmill.images.photos import read_photo
from maskmill.store.hashing import json_hash
from maskmill.store.manifest import Row
from maskmill.store.seal import bytes_crc32c


def file_name(row: Row) -> str:
    """Relative name of the image: its id with the suffix of its file."""
    suffix = suffix_of(row)
    return row.id if row.id.endswith(suffix) else row.id + suffix


def suffix_of(row: Row) -> str:
    """Of the photo's file, with its dot; of a page, window or composite `.png`, as which it is written."""
    return Path(row.path).suffix if row.parent is None else ".png"


def stem(row: Row) -> str:
    """The id, or `~<hash of the id>` where lists of one name a line could not hold it."""
    plain = row.id == row.id.strip() and not row.id.startswith("#") and row.id.splitlines() == [row.id]
    return row.id if plain else f"~{json_hash(row.id)}"


def check_inside(row: Row) -> None:
    """An id that would lead out of a folder is a StoreError."""
    check_inside_folder(row.id)


def check_inside_folder(name: str) -> None:
    """As `check_inside`, of an id."""
    if ".." in Path(name).parts or Path(name).is_absolute():
        raise StoreError(f"manifest: id {name!r} points outside the export folder; run snakemake again")


def free_name(folder: Path, name: str, suffix: str) -> tuple[Path, str]:
    """A path `<name><suffix>` that does not exist, in a folder that does, and the name; as `created` does it."""
    path = folder / f"{name}{suffix}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("xb").close()
        path.unlink()
        return path, name
    except OSError as error:
        if error.errno not in (errno.ENAMETOOLONG, errno.EEXIST, errno.ENOTDIR, errno.EISDIR):
            raise
        name = f"~{json_hash(name)}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{name}{suffix}", name


def placed(folder: Path, name: str, suffix: str, row: Row, body: bytes | Path) -> str:
    """Write a new file `<name><suffix>` of an image in a folder; the name that it got.

    `~<hash of the id>` is taken where the file system cannot have the name: it is too long, differs from one that is
    there in case or accents only on a file system that cannot tell them apart, or is a folder for another image
    (`a` beside `a.png/b`).

    Args:
        body: the file's bytes, or a file that has them: then it becomes another name of that file, where the file
            system can do that, and a copy where it cannot.

    Raises:
        StoreError: the id points outside the folder.
    """
    check_inside(row)
    try:
        _write(folder / f"{name}{suffix}", body)
        return name
    except OSError as error:
        if error.errno not in _NO_NAME:
            raise
        name = f"~{json_hash(row.id)}"
        _write(folder / f"{name}{suffix}", body)
        return name


_NO_NAME = (errno.ENAMETOOLONG, errno.EEXIST, errno.ENOTDIR, errno.EISDIR)
_NO_LINK = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EACCES)


def _write(path: Path, body: bytes | Path) -> None:
    try:
        _new(path, body)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        _new(path, body)


def _new(path: Path, body: bytes | Path) -> None:
    if isinstance(body, Path):
        try:
            os.link(body, path, follow_symlinks=False)
            return
        except OSError as error:
            if error.errno not in _NO_LINK:
                raise
        if body.is_symlink():
            os.symlink(os.readlink(body), path)
            return
        body = body.read_bytes()
    with path.open("xb") as file:
        file.write(body)


def write_renamed(path: Path, renamed: Sequence[tuple[str, str]], column: str) -> None:
    """A table of the images whose file is not called as their id."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([("id", column), *renamed])


def place_photo(row: Row, path: Path, how: str, ready: Path | None = None) -> None:
    """The photo at `path`, as a symbolic link to its file or as a copy of it.

    Where its EXIF block turns it, it is written turned, as a PNG whatever its suffix says: masks are as an image is
    shown, and many tools read the pixels without turning them. So is, as the run has seen it, what is no whole photo of
    eight bits. Nothing is done where the folder cannot have the name.

    Args:
        ready: what this function has placed for a part of the images.

    Raises:
        InputError: it is not the file that the manifest describes; names it.
    """
    body: bytes | Path | None = ready if ready is not None else _checked_photo(row, how)
    try:
        if body is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            os.symlink(os.path.abspath(row.path), path)
        else:
            _write(path, body)
    except OSError as error:
        if error.errno not in _NO_NAME:
            raise


def _checked_photo(row: Row, how: str) -> bytes | None:
    """The bytes to write, or None where a link to the file will do; an InputError as `place_photo`."""
    if row.view is not None:
        return _as_png(row)
    try:
        body = image_bytes(row.path, row.width * row.height)
        if row.crc32c is not None and (len(body), bytes_crc32c(body)) != (row.bytes, row.crc32c):
            raise InputError("another content than in the manifest")
        turned = is_turned(body, row.width * row.height)
    except InputError as error:
        raise InputError(
            f"{row.path}: {error}; it changed since the inputs were checked: restore the file and run snakemake again"
        ) from None
    if turned:
        return _as_png(row)
    return None if how == "link" else body


def _as_png(row: Row) -> bytes:
    file = io.BytesIO()
    Image.fromarray(read_photo(row)).save(file, format="PNG")
    return file.getvalue()

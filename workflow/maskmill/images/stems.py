"""Files that belong to images by name: listing a folder, and matching its files to images by relative path or stem.

Standard library only: the Snakefile lists folders when it plans.
"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from maskmill.errors import InputError

LABEL_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".gif")
LOSSY = (".jpg", ".jpeg", ".webp", ".jp2", ".avif")  # change class numbers


STORE_MARKS = (
    "zarr.json",
    ".zarray",
    ".zgroup",
    ".zattrs",
)  # a folder with one of these files is a Zarr array or group
Identity = tuple[int, int]  # device and inode: a folder, whatever path leads to it


def walk(folder: str | os.PathLike[str]) -> Iterator[tuple[str, os.stat_result | None]]:
    """(relative POSIX path, stat) of every visible file below a folder, in a fixed order; see `names`.

    A link to nothing or to itself has no stat.
    """
    return ((name, _stat(entry)) for name, entry in _visible(folder, [], ()))


def names(
    folder: str | os.PathLike[str], skipped: list[str], leave_out: Sequence[str | os.PathLike[str]] = ()
) -> list[str]:
    """Relative POSIX paths of all visible files below a folder: all but folders, pipes and devices among them.

    Links are followed, but each folder is entered once, whatever leads there: by its own path where it lies below
    `folder`, else by the link whose path is first in the alphabet, with fewer links on the way before more. So paths
    do not depend on the order of the disk, and folders that link to each other end. A link to a folder around
    `folder` is not entered.

    Args:
        skipped: gets the paths of links that were not entered. leave_out: folders that are not entered.

    Raises:
        OSError: a folder cannot be listed.
    """
    return [name for name, _ in _visible(folder, skipped, leave_out)]


def folders(folder: str | os.PathLike[str], skipped: list[str]) -> list[str]:
    """A folder ("") and all visible folders below it, each once (see `names`): relative paths that end with a slash."""
    found: list[str] = []
    for _ in _visible(folder, skipped, (), found):
        pass
    return found


def _visible(
    folder: str | os.PathLike[str],
    skipped: list[str],
    leave_out: Sequence[str | os.PathLike[str]],
    entered: list[str] | None = None,
) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """(relative path, entry) of all files; first those without a link on the way, then those behind one link, ..."""
    entered, seen = [] if entered is None else entered, _around(folder)
    left_out = {identity for each in leave_out if (identity := _identity(each)) is not None}
    seen |= left_out - {_identity(folder)}
    ahead = [("", os.fspath(folder))]
    while ahead:
        links: list[tuple[str, str]] = []
        for prefix, path in sorted(ahead):
            if prefix and not _new(path, seen):
                if _identity(path) not in left_out:
                    skipped.append(prefix.removesuffix("/"))
                continue
            yield from _tree(path, prefix, seen, links, entered, skipped)
        ahead = links


def is_store(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder is a Zarr array or group: one image, which is not walked into."""
    return any(os.path.isfile(os.path.join(folder, mark)) for mark in STORE_MARKS)


def _tree(
    top: str, prefix: str, seen: set[Identity], links: list[tuple[str, str]], entered: list[str], skipped: list[str]
) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """The files below one folder, depth first in the order of names; links to folders are put aside."""
    entered.append(prefix)
    open_ = [(prefix, iter(_entries(top)))]
    while open_:
        prefix, entries = open_[-1]
        for entry in entries:
            if not _is_folder(entry) or is_store(entry.path):
                yield prefix + entry.name, entry
            elif entry.is_symlink():
                links.append((f"{prefix}{entry.name}/", entry.path))
            elif _new(entry.path, seen):
                entered.append(f"{prefix}{entry.name}/")
                open_.append((entered[-1], iter(_entries(entry.path))))
                break
            else:  # mounted twice
                skipped.append(f"{prefix}{entry.name}")
        else:
            open_.pop()


def _entries(folder: str) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _stat(entry: os.DirEntry[str]) -> os.stat_result | None:
    try:
        return entry.stat()
    except OSError:
        return None


def _identity(folder: str | os.PathLike[str]) -> Identity | None:
    try:
        stat = os.stat(folder)
    except OSError:
        return None
    return stat.st_dev, stat.st_ino


def _new(folder: str, seen: set[Identity]) -> bool:
    """True for a folder that was not seen before; it is seen now."""
    stat = os.stat(folder)
    identity = stat.st_dev, stat.st_ino
    if identity in seen:
        return False
    seen.add(identity)
    return True


def _around(folder: str | os.PathLike[str]) -> set[Identity]:
    """The folder itself and those in which it lies."""
    path = Path(os.path.realpath(folder))
    return {identity for each in (path, *path.parents) if (identity := _identity(each)) is not None}


def match_stems(
    stems: Mapping[str, str],
    folder: Path,
    key: str,
    what: str = "label",
    suffixes: tuple[str, ...] = LABEL_SUFFIXES,
) -> dict[str, str]:
    """{image id: absolute path} of the label-like files of a folder with the images' relative paths but for the suffix.

    Where the relative path has no file, a bare stem that only one image and only one file have will do. Letters with
    marks may be one code point or two: systems differ, and names that are the same text are one name.

    Args:
        stems: {image id: relative path without suffix}, not empty.
        key: the configuration key of the folder, what: the kind of file; both for messages. suffixes: of the files.

    Raises:
        InputError: no such folder; no file fits any image; two files fit one.
    """
    if not folder.is_dir():
        raise InputError(f"{key}: {str(folder)!r} is not a folder; give a folder of {what} images named as the images")
    try:
        listed = names(folder, [])
    except OSError as error:
        raise InputError(f"{key}: {error.filename!r} cannot be listed ({error.strerror}); mend its rights") from None
    files = [name for name in listed if name.lower().endswith(suffixes)]
    lossy = [name for name in listed if name.lower().endswith(LOSSY)]
    number = "class number" if suffixes is LABEL_SUFFIXES else "number"
    if lossy and not files:
        raise InputError(
            f"{key}: {str(folder)!r} holds no {what} file ({', '.join(suffixes)}), but {len(lossy)} such as "
            f"{lossy[0]!r}, whose compression changes {number}s; save them anew from their source as PNG, one "
            f"{number} a pixel"
        )
    paths = [str(PurePosixPath(name).with_suffix("")) for name in files]
    stems = _composed(stems, paths)
    by_path, times = dict(zip(paths, files, strict=True)), Counter(paths)
    bare = [PurePosixPath(path).name for path in paths]
    by_bare, bare_times = dict(zip(bare, files, strict=True)), Counter(bare)
    image_times = Counter(PurePosixPath(stem).name for stem in stems.values())
    found = {}
    for image_id, stem in stems.items():
        name, short = by_path.get(stem), PurePosixPath(stem).name
        if times[stem] > 1:
            raise InputError(f"{key}: {times[stem]} files of {str(folder)!r} fit {image_id!r}; keep one")
        if name is None and bare_times[short] == 1 and image_times[short] == 1:
            name = by_bare[short]
        if name is not None:
            found[image_id] = os.path.abspath(folder / name)
    unnameable = next((path for path in found.values() if not _utf8(path)), None)
    if unnameable is not None:
        raise InputError(f"{key}: {unnameable!r}: the file name is not valid UTF-8; rename it")
    if not found:
        example = f", such as {files[0]!r} for {next(iter(stems.values()))!r}" if files else ""
        raise InputError(
            f"{key}: none of the {len(files)} {what} files ({', '.join(suffixes)}) in {str(folder)!r} has the "
            f"name of an image{example}"
        )
    return found


def _composed(stems: Mapping[str, str], paths: Iterable[str]) -> dict[str, str]:
    """{image id: stem}; a stem that is not a path itself is replaced by the only path of the same text."""
    known = set(paths)
    same: dict[str, set[str]] = {}
    for path in known - set(stems.values()):
        same.setdefault(unicodedata.normalize("NFC", path), set()).add(path)
    texts = Counter(unicodedata.normalize("NFC", stem) for stem in stems.values())
    found = {}
    for image_id, stem in stems.items():
        text = unicodedata.normalize("NFC", stem)
        others = same.get(text, set()) if stem not in known and texts[text] == 1 else set()
        found[image_id] = next(iter(others)) if len(others) == 1 else stem
    return found


def _utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True

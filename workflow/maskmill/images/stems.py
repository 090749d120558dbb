"""Files that belong to images by name: listing a folder, and matching its files to images by relative path or stem.

Standard library only: the Snakefile lists folders when it plans.
"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

from maskmill.errors import InputError

LABEL_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".gif")
LOSSY = (".jpg", ".jpeg", ".webp", ".jp2", ".avif")  # change class numbers


def walk(folder: str | os.PathLike[str]) -> Iterator[tuple[str, os.stat_result | None]]:
    """(relative POSIX path, stat) of every visible file below a folder, in a fixed order.

    Links are followed, but not in circles; a link to nothing has no stat. Raises OSError for a folder that cannot be
    listed.
    """
    return _walk(os.fspath(folder), "", (os.path.realpath(folder),))


def _walk(folder: str, prefix: str, above: tuple[str, ...]) -> Iterator[tuple[str, os.stat_result | None]]:
    with os.scandir(folder) as entries:
        found = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    for entry in found:
        if entry.is_dir():
            real = os.path.realpath(entry.path)
            if real not in above:
                yield from _walk(entry.path, f"{prefix}{entry.name}/", (*above, real))
        elif entry.is_file():
            yield prefix + entry.name, entry.stat()
        elif entry.is_symlink() and not os.path.exists(entry.path):
            yield prefix + entry.name, None


def match_stems(stems: Mapping[str, str], folder: Path, key: str, what: str = "label") -> dict[str, str]:
    """{image id: absolute path} of the label-like files of a folder with the images' relative paths but for the suffix.

    Where the relative path has no file, a bare stem that only one image and only one file have will do. Letters with
    marks may be one code point or two: systems differ, and names that are the same text are one name.

    Args:
        stems: {image id: relative path without suffix}, not empty.
        key: the configuration key of the folder, what: the kind of file; both for messages.

    Raises:
        InputError: no such folder; no file fits any image; two files fit one.
    """
    if not folder.is_dir():
        raise InputError(f"{key}: {str(folder)!r} is not a folder; give a folder of {what} images named as the images")
    try:
        names = [name for name, _ in walk(folder)]
    except OSError as error:
        raise InputError(f"{key}: {error.filename!r} cannot be listed ({error.strerror}); mend its rights") from None
    files = [name for name in names if name.lower().endswith(LABEL_SUFFIXES)]
    lossy = [name for name in names if name.lower().endswith(LOSSY)]
    if lossy and not files:
        raise InputError(
            f"{key}: {str(folder)!r} holds no {what} file ({', '.join(LABEL_SUFFIXES)}), but {len(lossy)} such as "
            f"{lossy[0]!r}, whose compression changes class numbers; save them anew from their source as PNG, one "
            "class number a pixel"
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
            f"{key}: none of the {len(files)} {what} files ({', '.join(LABEL_SUFFIXES)}) in {str(folder)!r} has the "
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

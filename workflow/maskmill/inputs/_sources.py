"""What the user may name as images: folder, glob, CSV/Parquet manifest, video. All become candidates."""

from __future__ import annotations

import os
import posixpath
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from maskmill.errors import InputError, nearest
from maskmill.images.decode import SUFFIXES
from maskmill.images.listing import glob_files, is_glob
from maskmill.images.stems import is_store, names
from maskmill.images.tables import TABLE_SUFFIXES, check_lines, separator
from maskmill.reading import SPECIAL, is_special
from maskmill.redact import redact
from maskmill.urls import is_url, refusal

if TYPE_CHECKING:
    import pandas as pd

MARKS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
VIDEO_SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")


@dataclass(frozen=True, slots=True)
class Candidate:
    """One file that may be an image: its id, absolute path, relative path without suffix, label file if it is known."""

    id: str
    path: str
    stem: str
    label: str | None = None


@dataclass(frozen=True)
class Listing:
    """What `images` names.

    Attributes:
        candidates: sorted by id. skipped: how many other files there were, by suffix. links: those that were not
            followed. again: how many files were named again.
    """

    candidates: list[Candidate]
    skipped: Counter[str] = field(default_factory=Counter)
    links: Sequence[str] = ()
    again: int = 0


def find(
    images: str, labels: str | None, frames: Path, frame_step: int, max_pixels: int, depth: str | None = None
) -> Listing:
    """Everything that `images` names; folders of labels and of depth maps inside the image folder are left out.

    Raises:
        InputError: nothing there, an unknown kind of file, or no image in it; says what was looked for.
    """
    path, footage = Path(images), Footage(frames, frame_step, max_pixels)
    suffix = path.suffix.lower()
    if is_url(images):
        raise InputError(f"images: {refusal(images)}")
    if is_glob(images):
        return _from_glob(images, footage)
    if not path.exists():
        raise InputError(f"images: {images!r} does not exist; give a folder, a glob, a CSV/Parquet manifest or a video")
    if is_special(path):
        raise InputError(f"images: {images!r} is {SPECIAL}; give a folder, a glob, a table or a video")
    if path.is_dir() and not is_store(path):
        return _from_folder(path, footage, [each for each in (labels, depth) if each])
    if suffix in TABLE_SUFFIXES:
        return Listing(_from_table(path))
    if suffix in VIDEO_SUFFIXES:
        names, files = footage.frames_of(str(path), path.name)
        return Listing(_candidates(names, files))
    if suffix in SUFFIXES or path.is_dir():
        return Listing(_candidates([path.name], [str(path)]))
    kinds = ", ".join((*TABLE_SUFFIXES, *VIDEO_SUFFIXES, *SUFFIXES))
    raise InputError(f"images: {images!r} is neither a folder nor a glob, nor one of the known files: {kinds}")


def _from_folder(folder: Path, footage: Footage, leave_out: Sequence[str]) -> Listing:
    links: list[str] = []
    try:
        found = names(folder, links, leave_out)
    except OSError as error:
        raise InputError(f"images: {error.filename!r} cannot be listed ({error.strerror}); mend its rights") from None
    known, skipped = _by_suffix(found, f"below {str(folder)!r}")
    named, files = footage.expanded(known, [str(folder / name) for name in known])
    return Listing(_candidates(named, files), skipped, links)


def _from_glob(pattern: str, footage: Footage) -> Listing:
    links: list[str] = []
    matched = {os.path.normpath(file): file for file in glob_files(pattern, links)}  # a/../x and b/../x are one file
    known, skipped = _by_suffix(list(matched.values()), f"matches {pattern!r}")
    root = glob_root(pattern)
    named, files = footage.expanded([_inside(Path(os.path.relpath(file, root)).as_posix()) for file in known], known)
    return Listing(_candidates(named, files), skipped, links)


@dataclass(frozen=True)
class Footage:
    """How videos become images: frames below a folder, every `step`-th, of at most `max_pixels`."""

    frames: Path
    step: int
    max_pixels: int

    def frames_of(self, video: str, name: str) -> tuple[list[str], list[str]]:
        """(names, files) of the frames of one video; a name is that of the video without suffix, and a number."""
        from maskmill.inputs._video import extract_frames

        folder = extract_frames(Path(video), self.frames, self.step, self.max_pixels)
        frames, stem = sorted(os.listdir(folder)), PurePosixPath(_stem(name))
        if not stem.name.strip("."):  # of `...mkv`, which would lead outside
            stem = stem.parent / "video" if stem.name else PurePosixPath("video")
        return [f"{stem}/{frame}" for frame in frames], [str(folder / frame) for frame in frames]

    def expanded(self, named: Sequence[str], files: Sequence[str]) -> tuple[list[str], list[str]]:
        """(names, files) with the frames of each video in its place; one that has none stays, and is rejected."""
        out: tuple[list[str], list[str]] = [], []
        for name, file in zip(named, files, strict=True):
            own: tuple[Sequence[str], Sequence[str]] = [name], [file]
            if name.lower().endswith(VIDEO_SUFFIXES):
                try:
                    own = self.frames_of(file, name)
                except (InputError, OSError) as error:
                    print(f"inputs: {redact(str(error))}", file=sys.stderr)
            out[0].extend(own[0])
            out[1].extend(own[1])
        return out


def glob_root(pattern: str) -> str:
    """The folder at which the ids of a glob start."""
    fixed = pattern[: min(pattern.index(mark) for mark in "*?[" if mark in pattern)]
    return os.path.dirname(fixed) or "."


def _by_suffix(names: list[str], where: str) -> tuple[list[str], Counter[str]]:
    """(image and video files, count of other files by suffix); no such file is an InputError."""
    known: list[str] = []
    skipped: Counter[str] = Counter()
    for name in names:
        if name.lower().endswith((*SUFFIXES, *VIDEO_SUFFIXES)):
            known.append(name)
        else:
            skipped[PurePosixPath(name).suffix.lower() or "no suffix"] += 1
    if not known:
        others = f"found only {counted(skipped)}" if skipped else "found no file at all"
        raise InputError(f"images: no image {where}; looked for {', '.join((*SUFFIXES, *VIDEO_SUFFIXES))}; {others}")
    return known, skipped


def counted(skipped: Counter[str]) -> str:
    """`12 files (.txt 10, .json 2)`."""
    kinds = ", ".join(f"{suffix} {count}" for suffix, count in sorted(skipped.items(), key=lambda x: (-x[1], x[0]))[:4])
    return f"{skipped.total()} {'file' if skipped.total() == 1 else 'files'} ({kinds})"


def _candidates(names: Sequence[str], files: Sequence[str]) -> list[Candidate]:
    """Candidates of relative names and their files, sorted by id."""
    ids = unique_ids(names)
    if len(set(ids)) < len(ids):
        twice = next(i for i, count in Counter(ids).items() if count > 1)
        raise InputError(f"images: two files have the id {twice!r}; name each by one path, without '..'")
    rows = zip(ids, files, names, strict=True)
    return _sorted(Candidate(i, os.path.abspath(file), _stem(name)) for i, file, name in rows)


def _sorted(candidates: Iterable[Candidate]) -> list[Candidate]:
    return sorted(candidates, key=lambda candidate: candidate.id)


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def unique_ids(names: Sequence[str]) -> list[str]:
    """Relative paths without suffix; files that would collide keep their suffix."""
    ids = [_stem(name) for name in names]
    while True:
        counts = Counter(ids)
        wider = [i if counts[i] == 1 else name for i, name in zip(ids, names, strict=True)]
        if wider == ids:
            return ids
        ids = wider  # "a.jpg" (of a.jpg, next to a.png) may now meet the stem of a.jpg.png


def _from_table(path: Path) -> list[Candidate]:
    table = _read_table(path)
    folder = path.resolve().parent
    given = _column(table, "path", path)
    # A URL is no path: its row is rejected (`check_file`), and the name that it gets has no secrets.
    names = [f"url of row {n}" if is_url(name) else _inside(name) for n, name in enumerate(given, 1)]
    ids = [_checked_id(i, path) for i in _column(table, "id", path)] if "id" in table else unique_ids(names)
    twice = [i for i, count in Counter(ids).items() if count > 1]
    if twice:
        raise InputError(f"{path}: id {twice[0]!r} stands in {ids.count(twice[0])} rows; give each row its own id")
    labels: list[str | None] = [None] * len(ids)
    if "label" in table:
        labels = [None if _absent(label) else _label_file(str(label), path) for label in table["label"]]
    files = [redact(name) if is_url(name) else os.path.abspath(folder / name) for name in given]
    return _sorted(
        Candidate(i, file, _stem(n), label) for i, file, n, label in zip(ids, files, names, labels, strict=True)
    )


def _label_file(label: str, table: Path) -> str:
    """The absolute path of a label that a table names, relative to the table's folder."""
    if is_url(label):
        raise InputError(f"{table}: label {refusal(label)}")
    return os.path.abspath(table.resolve().parent / label)


class _Named:
    """Images by id, by path, and by path without suffix."""

    def __init__(self, candidates: Sequence[Candidate]) -> None:
        self._ids = {c.id for c in candidates}
        self._paths = {c.path: c.id for c in candidates}
        self._stems: dict[str, set[str]] = {}
        for c in candidates:
            for stem in (_stem(c.path), c.stem):
                self._stems.setdefault(stem, set()).add(c.id)
        self._suffixed = {f"{c.stem}{PurePosixPath(c.path).suffix}": c.id for c in candidates}

    def by_id(self, name: str) -> str | None:
        return name if name in self._ids else None

    def by_path(self, name: str, folder: Path, table: Path) -> str | None:
        """The image of a path that is relative to `folder` or to the images; of another suffix where that is one image.

        Raises:
            InputError: the path without its suffix is that of two images.
        """
        absolute, inside = os.path.abspath(folder / name), _inside(name)
        exact = self._paths.get(absolute) or self._suffixed.get(inside)
        if exact is not None:
            return exact
        alike = self._stems.get(_stem(absolute)) or self._stems.get(_stem(inside)) or set()
        if len(alike) > 1:
            raise InputError(
                f"{table}: {name!r} may be {' or '.join(sorted(alike))}; give its suffix, or a column 'id'"
            )
        return next(iter(alike), None)


def labels_of_table(path: Path, candidates: Sequence[Candidate]) -> dict[str, str]:
    """{image id: absolute path of its label} of a table with the columns `label` and `id` or `path`.

    A path is relative to the table's folder, or as the images' folder has it; a label is relative to the table's
    folder. Rows of other images are passed over.

    Raises:
        InputError: the columns are missing, no row is of any image, or two rows give one image different labels.
    """
    table, folder = _read_table(path, "labels"), path.resolve().parent
    if "label" not in table:
        columns = [str(column) for column in table.columns]
        raise InputError(f"{path}: no column 'label'{nearest('label', columns)}; found: {redact(', '.join(columns))}")
    known = _Named(candidates)
    found: dict[str, str] = {}
    for name, label in zip(_column(table, "id" if "id" in table else "path", path), table["label"], strict=True):
        image = known.by_id(name) if "id" in table else known.by_path(name, folder, path)
        if image is None or _absent(label):
            continue
        file = _label_file(str(label), path)
        if found.setdefault(image, file) != file:
            raise InputError(f"{path}: two labels for {image!r}: {found[image]} and {file}; keep one")
    if not found:
        raise InputError(
            f"labels: no row of {str(path)!r} is of an image of this run, such as {candidates[0].id!r}; give the "
            "column 'id' or 'path' as the images have it"
        )
    return found


def _read_table(path: Path, key: str = "images") -> pd.DataFrame:
    import pandas as pd

    try:
        if path.suffix.lower() == ".parquet":
            table = pd.read_parquet(path)
        else:
            # "NA" and "null" are names like any other; only an empty cell is empty
            check_lines(path)
            table = pd.read_csv(path, sep=separator(path), dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except Exception as error:  # pandas and pyarrow raise many kinds; all mean an unreadable table
        raise InputError(f"{path}: not a readable table ({redact(' '.join(str(error).split()))})") from None
    _check_separator([str(column) for column in table.columns], path)
    if "path" not in table and (key == "images" or "id" not in table):
        columns = [str(column) for column in table.columns]
        raise InputError(f"{path}: no column 'path'{nearest('path', columns)}; found: {redact(', '.join(columns))}")
    if table.empty:
        raise InputError(f"{path}: no rows; give one row an image")
    return table


def _check_separator(columns: list[str], path: Path) -> None:
    """The header was not read as a single column because another mark separates the columns."""
    expected = "\t" if path.suffix.lower() == ".tsv" else ","
    if len(columns) != 1 or path.suffix.lower() == ".parquet":
        return
    for mark in ";\t|,":
        names = [name.strip().strip('"') for name in columns[0].split(mark)]
        if mark != expected and len(names) > 1 and {"path", "id", "label"}.intersection(names):
            advice = "save it with tabs" if expected == "\t" else "save it with commas, or with tabs as .tsv"
            raise InputError(
                f"{path}: its first line {redact(columns[0])!r} was read as one column, since {path.suffix} is "
                f"separated by {MARKS[expected]} and this file by {MARKS[mark]}; {advice}"
            )


def _absent(value: object) -> bool:
    return value is None or value == "" or value != value  # NaN differs from itself


def _column(table: pd.DataFrame, name: str, path: Path) -> list[str]:
    """A column without empty cells, as text."""
    values = list(table[name])
    for number, value in enumerate(values, 1):
        if _absent(value):
            raise InputError(f"{path}: row {number}: empty {name}; fill it in or remove the row")
    return [str(value) for value in values]


def _inside(name: str) -> str:
    """A path as an id, without a leading `/` or `..`, so that results stay in their folder."""
    parts = posixpath.normpath(name).split("/")
    return "/".join(part for part in parts if part not in ("", ".", "..")) or name


def _checked_id(image_id: str, path: Path) -> str:
    """Ids become file names of the export, so they may not lead out of its folder."""
    if "\0" in image_id or not image_id.strip("./"):
        raise InputError(f"{path}: id {image_id!r} cannot be the name of a file; give the row another")
    if is_url(image_id):
        raise InputError(f"{path}: id {redact(image_id)!r} is a URL, which cannot be the name of a file; give another")
    if image_id != _inside(image_id):
        raise InputError(f"{path}: id {image_id!r} is no plain relative path; write it as {_inside(image_id)!r}")
    return image_id

"""What the user may name as images: folder, glob, CSV/Parquet manifest, video. All become (id, path, label) rows."""

from __future__ import annotations

import glob
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from maskmill.artefact import atomic, json_hash
from maskmill.errors import InputError, nearest
from maskmill.images import SUFFIXES
from maskmill.inputs._listing import is_glob, walk

VIDEO_SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
TABLE_SUFFIXES = (".csv", ".tsv", ".parquet")


@dataclass(frozen=True)
class Candidate:
    """One file that may be an image."""

    id: str
    path: str
    label: str | None = None


def find(images: str, frames: Path, frame_step: int) -> list[Candidate]:
    """Candidates sorted by id.

    Raises:
        InputError: nothing there, an unknown kind of file, or no image in it; says what was looked for.
    """
    path = Path(images)
    suffix = path.suffix.lower()
    if is_glob(images):
        return _from_glob(images)
    if not path.exists():
        raise InputError(f"images: {images!r} does not exist; give a folder, a glob, a CSV/Parquet manifest or a video")
    if path.is_dir():
        return _from_folder(path)
    if suffix in TABLE_SUFFIXES:
        return _from_table(path)
    if suffix in VIDEO_SUFFIXES:
        return _from_folder(extract_frames(path, frames, frame_step), prefix=path.stem)
    if suffix in SUFFIXES:
        return [Candidate(path.stem, str(path.resolve()))]
    kinds = ", ".join((*TABLE_SUFFIXES, *VIDEO_SUFFIXES))
    raise InputError(f"images: {images!r} is neither a folder, a glob, nor one of {kinds}")


def _from_folder(folder: Path, prefix: str = "") -> list[Candidate]:
    names = [name for name, _ in walk(folder) if name.lower().endswith(SUFFIXES)]
    if not names:
        raise InputError(f"images: no image below {str(folder)!r}; looked for {', '.join(SUFFIXES)}")
    ids = _unique_ids([f"{prefix}/{name}" if prefix else name for name in names])
    return sorted(
        (Candidate(i, str((folder / n).resolve())) for i, n in zip(ids, names, strict=True)), key=lambda c: c.id
    )


def _from_glob(pattern: str) -> list[Candidate]:
    files = [f for f in sorted(glob.glob(pattern, recursive=True)) if f.lower().endswith(SUFFIXES)]
    if not files:
        raise InputError(f"images: no image matches {pattern!r}; looked for {', '.join(SUFFIXES)}")
    fixed = pattern[: min(pattern.index(mark) for mark in "*?[" if mark in pattern)]
    root = Path(fixed if fixed.endswith("/") else os.path.dirname(fixed) or ".")
    ids = _unique_ids([Path(file).relative_to(root).as_posix() for file in files])
    return sorted((Candidate(i, str(Path(f).resolve())) for i, f in zip(ids, files, strict=True)), key=lambda c: c.id)


def _from_table(path: Path) -> list[Candidate]:
    import pandas as pd

    try:
        if path.suffix.lower() == ".parquet":
            table = pd.read_parquet(path)
        else:
            table = pd.read_csv(path, sep="\t" if path.suffix.lower() == ".tsv" else ",", dtype=str)
    except Exception as error:  # pandas and pyarrow raise many kinds; all mean an unreadable table
        raise InputError(f"{path}: not a readable table ({' '.join(str(error).split())})") from None
    if "path" not in table.columns:
        hint = nearest("path", map(str, table.columns))
        raise InputError(f"{path}: no column 'path'{hint}; found: {', '.join(map(str, table.columns))}")
    if table.empty:
        raise InputError(f"{path}: no rows")
    missing = table["path"].isna()
    if missing.any():
        raise InputError(f"{path}: row {int(missing.to_numpy().argmax()) + 1}: empty path")
    folder = path.resolve().parent
    files = [str(folder / str(p)) for p in table["path"]]
    ids = (
        [str(i) for i in table["id"]]
        if "id" in table.columns
        else _unique_ids([str(p).lstrip("/") for p in table["path"]])
    )
    twice = [i for i, n in Counter(ids).items() if n > 1]
    if twice:
        raise InputError(f"{path}: id {twice[0]!r} stands in {ids.count(twice[0])} rows; ids are unique")
    labels = [None] * len(ids)
    if "label" in table.columns:
        labels = [None if pd.isna(label) else str(folder / str(label)) for label in table["label"]]
    return sorted((Candidate(*row) for row in zip(ids, files, labels, strict=True)), key=lambda c: c.id)


def _unique_ids(names: list[str]) -> list[str]:
    """Relative paths without suffix; files that would collide keep their suffix."""
    stems = [str(PurePosixPath(name).with_suffix("")) for name in names]
    counts = Counter(stems)
    return [stem if counts[stem] == 1 else name for stem, name in zip(stems, names, strict=True)]


def extract_frames(video: Path, frames: Path, step: int) -> Path:
    """Every `step`-th frame of a video as PNG, in a folder named by the video's content and step; made once."""
    import av

    stat = video.stat()
    folder = frames / f"{video.stem}-{json_hash([str(video.resolve()), stat.st_size, stat.st_mtime_ns, step])[:8]}"
    if folder.is_dir():
        return folder
    try:
        with atomic(folder) as temporary, av.open(str(video)) as container:
            temporary.mkdir(parents=True)
            count = 0
            for number, frame in enumerate(container.decode(video=0)):
                if number % step == 0:
                    frame.to_image().save(temporary / f"{number:06d}.png", compress_level=1)
                    count += 1
            if not count:
                raise InputError(f"{video}: the video has no frames")
    except (av.error.FFmpegError, IndexError) as error:
        raise InputError(f"{video}: not a readable video ({error})") from None
    return folder

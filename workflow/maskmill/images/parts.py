"""How very many files are divided into parts, each of them checked by a job of its own."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

MOST = 1000  # parts of a run: more jobs than this save no time, and Snakemake plans for longer


def part_name(number: int) -> str:
    """`p0000`, `p0001`, ..."""
    return f"p{number:04d}"


def part_names(files: int, size: int) -> list[str]:
    """The parts of so many files, `size` files each or more where there would be too many; none for up to one part."""
    return [part_name(i) for i in range(min(MOST, -(-files // size)))] if files > size else []


def remove_parts(folder: Path, kept: Collection[str]) -> None:
    """Delete the files of parts in a folder, but for those that are kept: a run of fewer files has fewer parts."""
    for file in folder.glob("p*.parquet"):
        if re.fullmatch(r"p\d{4,}", file.stem) and file.stem not in kept:
            file.unlink(missing_ok=True)

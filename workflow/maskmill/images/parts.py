"""How very many files are divided into parts, each of them checked by a job of its own."""

from __future__ import annotations

MOST = 1000  # parts of a run: more jobs than this save no time, and Snakemake plans for longer


def part_name(number: int) -> str:
    """`p0000`, `p0001`, ..."""
    return f"p{number:04d}"


def part_names(files: int, size: int) -> list[str]:
    """The parts of so many files, `size` files each or more where there would be too many; none for up to one part."""
    return [part_name(i) for i in range(min(MOST, -(-files // size)))] if files > size else []

"""What Snakemake measured: its benchmark files, one a job."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Benchmark:
    """One job: its file's path below the folder (rule, owner, seed, shard), seconds, peak resident memory in MiB (None
    where not measured), when it ended.
    """

    parts: tuple[str, ...]
    seconds: float
    memory: float | None
    ended: float


def read(folder: Path) -> Iterator[Benchmark]:
    """Every job below `folder` that took long enough to be measured, by path."""
    for path in sorted(folder.rglob("*.tsv")):
        parts, ended = path.relative_to(folder).with_suffix("").parts, path.stat().st_mtime
        with path.open(newline="") as file:
            for row in csv.DictReader(file, delimiter="\t"):
                seconds = _number(row.get("s"))
                if seconds is not None:
                    yield Benchmark(parts, seconds, _number(row.get("max_rss")), ended)


def _number(text: str | None) -> float | None:
    try:
        return float(text or "")
    except ValueError:  # "NA" or "-": the job was too short to be measured
        return None

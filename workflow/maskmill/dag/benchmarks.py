"""What Snakemake measured: its benchmark files, one a job, and the order of the rules that they belong to."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

RULES = (
    "demo", "inputs", "weights", "features", "adapt_neighbours", "adapt_fit", "adapt_map", "cut", "regions",
    "reduce_fit", "reduce_map", "foreground_fit", "foreground_count", "foreground_choose", "cluster_fit", "cluster_map",
    "paint_limits", "paint", "paint_instances", "rounds_teach", "rounds_train", "rounds_detect", "rounds_predict",
    "evaluate", "evaluate_objects", "evaluate_probe", "evaluate_codes", "export", "report",
)  # fmt: skip


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

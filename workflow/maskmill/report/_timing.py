"""Time and memory of the stages, from the benchmark files that Snakemake writes beside the results."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from maskmill.dag import benchmarks
from maskmill.recipe.stages import RULES

SHARED = (
    "demo",
    "inputs_list",
    "inputs_check",
    "inputs",
    "weights",
    "features",
    "evaluate_probe",
)  # rules without a recipe
SHARD = re.compile(r"(?!seed\d)s[0-9a-f]+")  # "seed0" is hexadecimal too


@dataclass(frozen=True)
class RuleJob:
    """One job of a rule: seconds, peak resident memory in MiB (None where not measured), when it ended."""

    rule: str
    seconds: float
    memory: float | None
    ended: float


@dataclass(frozen=True)
class RuleTime:
    """All jobs of a rule: summed and longest seconds, peak memory of one job in MiB."""

    rule: str
    jobs: int
    seconds: float
    longest: float
    memory: float | None


def read_jobs(folder: Path, recipes: Collection[str], shards: Collection[str]) -> list[RuleJob]:
    """Every benchmark of this run; files of recipes and shards that are no longer part of it are left out."""
    return list(_jobs(folder, frozenset(recipes), frozenset(shards))) if folder.is_dir() else []


def _jobs(folder: Path, recipes: frozenset[str], shards: frozenset[str]) -> Iterator[RuleJob]:
    for job in benchmarks.read(folder):
        rule, parts = job.parts[0], job.parts
        if rule == "report":  # an earlier report of the same run
            continue
        if rule not in SHARED and rule in RULES and len(parts) > 1 and parts[1] not in recipes:
            continue
        if len(parts) > 1 and SHARD.fullmatch(parts[-1]) and parts[-1] not in shards:
            continue
        yield RuleJob(rule, job.seconds, job.memory, job.ended)


def by_rule(jobs: Sequence[RuleJob]) -> list[RuleTime]:
    """Jobs grouped by rule, in the order of the workflow."""
    place = {rule: i for i, rule in enumerate(RULES)}
    found = []
    for rule in sorted({job.rule for job in jobs}, key=lambda r: (place.get(r, len(place)), r)):
        mine = [job for job in jobs if job.rule == rule]
        seconds, memory = [job.seconds for job in mine], [job.memory for job in mine if job.memory is not None]
        found.append(RuleTime(rule, len(mine), sum(seconds), max(seconds), max(memory, default=None)))
    return found


def busy_seconds(jobs: Sequence[RuleJob]) -> float:
    """Time during which at least one job ran: the wall time of the run, without the breaks between restarts."""
    total, end = 0.0, float("-inf")
    for start, stop in sorted((job.ended - job.seconds, job.ended) for job in jobs):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total


def memory(mebibytes: float | None) -> str:
    """640 MiB, 1.2 GiB; a dash where it was not measured."""
    if mebibytes is None:
        return "–"
    return f"{mebibytes:.0f} MiB" if mebibytes < 1024 else f"{mebibytes / 1024:.1f} GiB"

"""A plan as text for a terminal, and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from maskmill.plan.build import Plan, PlanRow
from maskmill.progress import duration

SOURCES = {"given": "given", "run": "earlier run", "core": "one CPU core of docs/scaling.md"}


def size(count: float) -> str:
    """812 B, 3.4 MB, 78 TB: decimal units, as disks are sold."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if count >= 100 or unit == "B" else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} PB"


def lines(plan: Plan) -> Iterator[str]:
    """The whole plan."""
    images = plan.images
    shards = f"{images.shard_count:,} shards (at most {images.largest:,} images)"
    yield f"{images.count:,} images, {shards}, {plan.jobs:,} jobs"
    for slug, count in plan.tokens.items():
        yield f"  {count:,} tokens of {slug}"
    yield ""
    yield from _jobs(plan)
    yield ""
    yield from _disk(plan)
    if plan.arrays:
        sizes = ", ".join(f"{rule} {count}" for rule, count in plan.arrays.items())
        yield f"\nSLURM: arrays of {sizes}; `jobs` of the profile at least {max(plan.arrays.values())}"
    if plan.warnings:
        yield ""
    for warning in plan.warnings:
        yield f"warning: {warning}"


def _jobs(plan: Plan) -> Iterator[str]:
    head = f"{'rule':20}{'of':42}{'jobs':>8}{'a job':>14}{'core h':>11}{'GPU h':>9}{'wall h':>9}{'MB':>8}  rate from"
    yield head
    for row in plan.rows:
        if row.work.jobs:
            yield _line(row)
    gpu = f"{plan.total('gpu_hours'):.1f}" if plan.machines.gpus else "-"
    place = f"{plan.machines.cores} cores" + (f" and {plan.machines.gpus} GPUs" if plan.machines.gpus else ", no GPU")
    least = "at least " if plan.unknown else ""
    wall = f"{least}{duration(plan.total('wall') * 3600)} of wall clock"
    yield f"sum: {least}{plan.total('hours'):,.1f} core hours, {gpu} GPU hours, {wall} on {place}"
    if (alone := plan.longest_alone) is not None:
        name = f"{alone.work.rule}/{alone.work.owner}".rstrip("/")
        yield f"longest job that cannot be divided: {name}, {duration(alone.seconds or 0.0)}"
    if plan.unknown:
        yield (
            f"no time is known of {', '.join(plan.unknown)}: give --images-per-second {plan.unknown[0]}=..., or "
            "--from the folder of a small run of the same configuration"
        )
    if any(row.rate and row.rate.source == "core" for row in plan.rows):
        yield "times of one CPU core are those of another machine: expect a factor of 2 either way"


def _line(row: PlanRow) -> str:
    known = row.seconds is not None
    numbers = [row.hours, row.gpu_hours if row.gpu else None, row.wall]
    cells = [f"{value:,.1f}" if value is not None else ("?" if not known else "-") for value in numbers]
    memory = max(row.work.memory, row.needs / 1e6) if row.peak is None else row.peak
    source = SOURCES[row.rate.source] if row.rate else "?"
    one = duration(row.seconds) if row.seconds is not None else "?"
    return (
        f"{row.work.rule:20}{row.work.owner[:41]:42}{row.work.jobs:>8,}{one:>14}{cells[0]:>11}{cells[1]:>9}{cells[2]:>9}"
        f"{memory:>8.0f}  {source}"
    )


def _disk(plan: Plan) -> Iterator[str]:
    yield f"{'disk':18}{'of':42}{'bytes':>10}"
    for artefact in plan.disk:
        how = "" if artefact.exact else "  about"
        if artefact.feature_set:
            how = "  all shards are read at once" if artefact.whole else "  needed shard by shard only"
        yield f"{artefact.name:18}{artefact.owner[:41]:42}{size(artefact.bytes):>10}{how}"
    yield (
        f"sum: {size(plan.bytes_kept)}; without keeping feature sets {size(plan.bytes_not_kept)} in the end, "
        f"and at least {size(plan.bytes_needed)} at once"
    )


def as_json(plan: Plan) -> dict[str, Any]:
    """The plan as a JSON object; bytes, seconds and hours as numbers."""
    rows = []
    for row in plan.rows:
        body = asdict(row)
        rows.append(body.pop("work") | body)
    return {
        "images": plan.images.count,
        "shards": plan.images.shard_count,
        "shard_size": plan.shard_size,
        "jobs": plan.jobs,
        "jobs_by_rule": plan.by_rule(),
        "tokens": dict(plan.tokens),
        "rows": rows,
        "disk": [asdict(artefact) for artefact in plan.disk],
        "bytes": {"kept": plan.bytes_kept, "not_kept": plan.bytes_not_kept, "at_once": plan.bytes_needed},
        "core_hours": plan.total("hours"),
        "gpu_hours": plan.total("gpu_hours"),
        "wall_hours": plan.total("wall"),
        "unknown": plan.unknown,
        "arrays": plan.arrays,
        "machines": asdict(plan.machines),
        "warnings": list(plan.warnings),
    }

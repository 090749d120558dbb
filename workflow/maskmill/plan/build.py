"""The plan: rows by rule, artefacts, and what is wrong with it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from maskmill.plan.artefacts import Artefact, artefacts
from maskmill.plan.geometry import geometry
from maskmill.plan.images import PlannedImages
from maskmill.plan.jobs import Work, jobs, used_sets
from maskmill.plan.rates import START, Rate, Rates
from maskmill.recipe.model import Run

MANY_SHARDS = 2000  # beyond this Snakemake plans for minutes (docs/scaling.md)
LARGEST_SHARD = 100_000  # the limit of inputs.shard_size
SHORT, LONG = 300.0, 4 * 3600.0  # seconds of a job: below, its start and the queue weigh; above, a failure costs a lot
ID_BYTES = 200  # of an image in a job that opens all stores: its id as a string, in a list and in a table
COPIES = 2  # of a fit's vectors in float32: the sample, and the same made ready
ARRAYS = ("features", "cut", "reduce_map", "cluster_map", "paint")  # slurm-array-jobs of profiles/slurm
MAX_ARRAY = 1000  # SLURM's MaxArraySize of 1001 where a site does not raise it


@dataclass(frozen=True)
class Machines:
    """What the run may use at once."""

    cores: int
    gpus: int = 0


@dataclass(frozen=True)
class PlanRow:
    """Jobs of a rule for one owner, with their time; None where no rate is known.

    Attributes:
        seconds: of one job, its start included. hours: of cores held by all jobs. gpu_hours: of GPUs held.
        wall: hours until all are done, on these machines alone.
        needs: bytes that a fit's vectors and the ids of all images take; 0 for other jobs.
        peak: MB that an earlier run's jobs took, at most.
    """

    work: Work
    gpu: bool
    rate: Rate | None
    seconds: float | None
    hours: float | None
    gpu_hours: float | None
    wall: float | None
    needs: int = 0
    peak: float | None = None


@dataclass(frozen=True)
class Plan:
    """A planned run."""

    images: PlannedImages
    machines: Machines
    shard_size: int
    tokens: Mapping[str, int]
    rows: tuple[PlanRow, ...]
    disk: tuple[Artefact, ...]
    warnings: tuple[str, ...] = field(default=())

    @property
    def jobs(self) -> int:
        return sum(row.work.jobs for row in self.rows)

    def by_rule(self) -> dict[str, int]:
        """Rule -> number of jobs."""
        found: dict[str, int] = {}
        for row in self.rows:
            found[row.work.rule] = found.get(row.work.rule, 0) + row.work.jobs
        return {rule: count for rule, count in found.items() if count}

    @property
    def longest_alone(self) -> PlanRow | None:
        """The longest of the jobs that no other job of their rule and owner shares the work with."""
        alone = [row for row in self.rows if row.work.jobs == 1 and row.seconds]
        return max(alone, key=lambda row: row.seconds or 0.0, default=None)

    @property
    def unknown(self) -> list[str]:
        """`rule/owner` of the jobs whose time is not known."""
        return [f"{row.work.rule}/{row.work.owner}".rstrip("/") for row in self.rows if row.seconds is None]

    def total(self, name: str) -> float:
        """Sum of a column over the rows that know it."""
        return float(sum(getattr(row, name) or 0.0 for row in self.rows))

    @property
    def bytes_kept(self) -> int:
        """Bytes on disk at the end, with every feature set."""
        return sum(artefact.bytes for artefact in self.disk)

    @property
    def bytes_not_kept(self) -> int:
        """Bytes on disk at the end, where no feature set is kept."""
        return sum(artefact.bytes for artefact in self.disk if not artefact.feature_set)

    @property
    def bytes_needed(self) -> int:
        """Bytes on disk at once where no feature set is kept: those stay of which some job reads every shard."""
        sets = sum(artefact.bytes for artefact in self.disk if artefact.feature_set and artefact.whole)
        return self.bytes_not_kept + sets

    @property
    def arrays(self) -> dict[str, int]:
        """Rule -> size of its SLURM job array, for the rules of the shipped profile."""
        return {rule: count for rule, count in self.by_rule().items() if rule in ARRAYS}


@dataclass(frozen=True)
class Measured:
    """What an earlier, smaller run of the same configuration says; empty where there was none.

    Attributes:
        regions: recipe -> regions of an image. bytes: bytes of an image by artefact. peaks: rule -> MB of memory.
    """

    regions: Mapping[str, float] = field(default_factory=dict)
    bytes: Mapping[str, float] = field(default_factory=dict)
    peaks: Mapping[str, float] = field(default_factory=dict)


def build(
    run: Run,
    images: PlannedImages,
    rates: Rates,
    machines: Machines,
    *,
    earlier: Measured | None = None,
    free: int | None = None,
) -> Plan:
    """Plan a run; `free`: bytes that are free on the disk of the run."""
    known = earlier or Measured()
    rows = tuple(
        _row(work, rates.of(work, run), machines, images, known.peaks.get(work.rule))
        for work in jobs(run, images, dict(known.regions))
    )
    sets = used_sets(run)
    tokens = {
        slug: images.tokens(fs.size, geometry(fs).stride, geometry(fs).cells)
        for slug, fs in run.feature_sets.items()
        if slug in sets
    }
    disk = tuple(artefacts(run, images, known.regions, known.bytes))
    plan = Plan(images, machines, run.config.inputs.shard_size, tokens, rows, disk)
    return Plan(images, machines, plan.shard_size, tokens, rows, disk, tuple(_warnings(plan, free)))


def _row(work: Work, rate: Rate | None, machines: Machines, images: PlannedImages, peak: float | None) -> PlanRow:
    # A rate that was measured on a core says nothing of a GPU.
    gpu = work.network and machines.gpus > 0
    if rate is not None and gpu and rate.source == "core":
        rate = None
    needs = COPIES * work.points * work.depth * 4 + (ID_BYTES * images.count if work.unit == "points" else 0)
    if not work.jobs:
        return PlanRow(work, gpu, rate, 0.0, 0.0, 0.0, 0.0, needs, peak)
    if rate is None:
        return PlanRow(work, gpu, None, None, None, None, None, needs, peak)
    seconds = START + rate.seconds * work.amount / work.jobs
    side_by_side = machines.gpus if gpu else max(1, machines.cores // work.threads)
    hours = work.jobs * seconds * work.threads / 3600
    wall = math.ceil(work.jobs / side_by_side) * seconds / 3600
    return PlanRow(work, gpu, rate, seconds, hours, work.jobs * seconds / 3600 if gpu else 0.0, wall, needs, peak)


def _warnings(plan: Plan, free: int | None) -> Iterator[str]:
    yield from _shards(plan)
    if free is not None and plan.bytes_kept > free:
        yield (
            f"disk: {plan.bytes_kept / 1e12:.2f} TB, but {free / 1e12:.2f} TB are free here; without keeping feature "
            f"sets {plan.bytes_needed / 1e12:.2f} TB must lie there at once"
        )
    for row in plan.rows:
        yield from _job(row, plan)
    yield from _short(plan)
    too_long = {rule: count for rule, count in plan.arrays.items() if count > MAX_ARRAY}
    if too_long:
        rule = max(too_long, key=lambda name: too_long[name])
        yield (
            f"slurm-array-jobs: {rule} is an array of {too_long[rule]} jobs; SLURM takes {MAX_ARRAY} where the site "
            f"has not raised MaxArraySize, and `jobs` of the profile must be at least {max(plan.arrays.values())}"
        )


def _shards(plan: Plan) -> Iterator[str]:
    if plan.images.shard_count <= MANY_SHARDS:
        return
    better = _round_up(math.ceil(plan.images.count / MANY_SHARDS))
    if better <= LARGEST_SHARD:
        yield (
            f"inputs.shard_size: {plan.images.shard_count} shards make Snakemake plan for long; "
            f"shard_size {better} gives about {MANY_SHARDS}"
        )
    else:
        runs = math.ceil(plan.images.count / (MANY_SHARDS * LARGEST_SHARD))
        yield (
            f"inputs.shard_size: {plan.images.shard_count} shards; even the largest shard_size, {LARGEST_SHARD}, gives "
            f"more than {MANY_SHARDS}: fit on a part of the images, or split them into {runs} runs (docs/scaling.md)"
        )


def _short(plan: Plan) -> Iterator[str]:
    """One line about all jobs that are short and many."""
    short = [row for row in plan.rows if row.work.shards and row.work.jobs > 100 and (row.seconds or SHORT) < SHORT]
    if not short:
        return
    each = ", ".join(f"{row.work.rule}/{row.work.owner} {row.seconds:.0f} s" for row in short)
    longest = max(row.seconds or 0.0 for row in plan.rows if row.work.shards)
    least = SHORT if longest < SHORT else LONG / 2
    better = min(_round_up(math.ceil(plan.images.largest * least / longest)), LARGEST_SHARD)
    advice = (
        f"; shard_size {better} brings the longest to {least / 60:.0f} minutes" if better > plan.images.largest else ""
    )
    yield f"short jobs, whose start and time in a queue weigh ({SHORT / 60:.0f} minutes are better): {each}{advice}"


def _job(row: PlanRow, plan: Plan) -> Iterator[str]:
    name = f"{row.work.rule}/{row.work.owner}".rstrip("/")
    if row.needs > row.work.memory * 1e6:
        yield (
            f"{name}: {row.work.points} vectors of {row.work.depth} and {plan.images.count} ids take "
            f"about {row.needs / 1e9:.1f} GB, more than the "
            f"{row.work.memory} MB that it asks for; lower max_fit_points, or --set-resources {row.work.rule}:mem_mb="
        )
    if row.seconds is None or not row.work.jobs:
        return
    if row.seconds > LONG:
        advice = (
            f"a smaller shard_size than {plan.shard_size}" if row.work.shards else "it is one job: see docs/scaling.md"
        )
        yield f"{name}: a job takes {row.seconds / 3600:.0f} h, more than {LONG / 3600:.0f}; {advice}"


def _round_up(number: int) -> int:
    """To two digits: 48123 -> 49000."""
    unit = 10 ** max(0, len(str(number)) - 2)
    return -(-number // unit) * unit

"""How long the work takes: rates that the user gives, of an earlier run, or measured on one CPU core."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from maskmill.dag import benchmarks
from maskmill.errors import ConfigError, nearest
from maskmill.plan.geometry import geometry
from maskmill.plan.images import PlannedImages
from maskmill.plan.jobs import ACCEPTED, CODEC, ORDER, Work, jobs
from maskmill.recipe.export import WHOLE
from maskmill.recipe.feature_set import FeatureSet
from maskmill.recipe.model import Run

# CPU seconds of a job before it works: interpreter, imports, opening stores (bench/startup.py).
START = 3.0
# Seconds of a job of an earlier run, on average: a longer job measures its work, a shorter one mostly its start.
LONG_ENOUGH = 10 * START
# CPU seconds of one unit of work on the machine of docs/scaling.md (bench/_throughput.py), by rule and method, and the
# tokens of an image there where the work grows with them; of `pretrain_fit` the patches of 16 x 16 px of all crops.
MEASURED: dict[str, tuple[float, int]] = {
    "inputs": (2.6e-3, 0),
    "inputs_list": (2e-5, 0),  # of many images, as bench/ends.py has it; so are the next and that of export
    "inputs_joined": (2e-5, 0),  # two threads, of which one works
    "weights": (6.0, 0),
    # DINO with two crops of 96 px and two of 48 px; the trainer's forward and backward passes and all else.
    "pretrain_fit/vit_tiny_patch16_224": (0.056, 90),
    "pretrain_fit/vit_small_patch16_224": (0.16, 90),
    "pretrain_fit/resnet18": (0.105, 90),
    "pretrain_fit/efficientnet_lite0": (0.082, 90),
    "features/vit_small_focus": (0.54, 1024),
    "features/vit_small_patch16_224": (0.54, 1024),  # the same network on patches of another size
    "features/efficientnet_lite0": (0.13, 196),
    "cut/ncut": (0.012, 1024),
    "cut/ncut+crf": (0.042, 1024),
    "cut/maskcut": (0.016, 1024),
    "cut/maskcut+crf": (0.079, 1024),
    "cut/lost": (0.009, 1024),
    "cut/lost+crf": (0.039, 1024),
    "regions/mean": (1e-3, 0),
    "reduce_fit/pca": (1.3e-5, 0),
    "reduce_map/pca": (1e-3, 0),
    "cluster_fit/kmeans": (7.8e-6, 0),
    "cluster_candidate/kmeans": (60.0, 0),  # a job: prototypes trained for 1000 steps
    "cluster_candidate/prototypes": (15.0, 0),  # half of the jobs only copy a head's prototypes
    "cluster_map/kmeans": (1e-3, 0),
    "taxonomy_survey": (2.0, 0),  # a job: some hundred images, however many there are
    "taxonomy_fit": (5.0, 0),
    "taxonomy_names": (0.5, 0),
    "taxonomy_map": (1e-3, 0),
    "paint_limits": (1.0, 0),
    "paint_stuff": (7.8e-6, 0),  # as k-means of tokens
    "paint/tokens": (4e-3, 196),
    "paint/regions": (2e-3, 1024),
    "rounds_train/token_head": (7.8e-3, 1024),
    "rounds_predict/token_head+crf": (0.037, 1024),
    "tracks_match": (0.07, 1024),  # with radius 3 and gap 1
    "tracks_join": (3e-3, 0),
    "tracks_map": (4e-3, 0),
    "export": (4.4e-3, 0),
    "export_joined": (4.5e-5, 0),
    "report": (1.0, 0),
}


PATCH = 16  # pixels
WHOLE_IMAGE = 0.042  # of `export`, besides: one image in one format of whole images, 640 x 480


@dataclass(frozen=True)
class Rate:
    """Seconds of one unit of work on all of a job's threads (or its GPU), and where the figure is from."""

    seconds: float
    source: str


@dataclass(frozen=True)
class Rates:
    """Rates by `rule/owner`, `rule/method` or `rule`; what the user gives goes before a run, a run whose jobs are long
    enough to measure before MEASURED.
    """

    given: Mapping[str, float] = field(default_factory=dict)  # units a second
    run: Mapping[str, float] = field(default_factory=dict)  # seconds a unit
    measured: Mapping[str, tuple[float, int]] = field(default_factory=lambda: MEASURED)
    short: frozenset[str] = frozenset()  # `rule/owner` of the run's rates whose jobs were shorter than LONG_ENOUGH

    def of(self, work: Work, run: Run) -> Rate | None:
        """The rate of some jobs; None where nothing is known."""
        rule = rated(work)
        names = [f"{rule}/{work.owner}", f"{rule}/{method(work, run)}", rule]
        for name in names:
            if name in self.given:
                return Rate(1 / self.given[name], "given")
        if names[0] in self.run and names[0] not in self.short:
            return Rate(self.run[names[0]], "run")
        if rule == "features" and (passes := self._passes(work, run)) is not None:
            return Rate(passes / work.threads, "core")
        for name in names[1:] if rule != "features" else ():
            if name in self.measured:
                seconds, tokens = self.measured[name]
                scale = tokens_of(work, run) / tokens if tokens else 1.0
                seconds = seconds * scale + _whole_images(work, run)
                return Rate(seconds / work.threads, "core")
        return Rate(self.run[names[0]], "run") if names[0] in self.run else None

    def _passes(self, work: Work, run: Run) -> float | None:
        """Seconds in which the networks of a feature set see an image, as often as it asks for; None where one is not
        known.
        """
        total = 0.0
        for part in _set_of(work, run).parts:
            if (known := self.measured.get(f"features/{part.backbone}")) is None:
                return None
            total += known[0] * part.passes * (tokens_of(work, run) / known[1] if known[1] else 1.0)
        return total


def _whole_images(work: Work, run: Run) -> float:
    """Seconds an image of what the one job of an export writes of whole images, whatever made the rest."""
    if work.rule != "export":
        return 0.0
    return WHOLE_IMAGE * sum(name in WHOLE for name in run.config.export.formats)


def rated(work: Work) -> str:
    """The rule whose rate holds for some jobs: those of a part do what the single job does for few images."""
    if work.joins:
        return f"{work.rule}_joined"
    alike = {"inputs_check": "inputs", "export_shard": "export", CODEC: "features", ACCEPTED: "features"}
    return alike.get(work.rule, work.rule)


def method(work: Work, run: Run) -> str:
    """What the speed of a rule depends on: the backbone, the method, and whether photos are looked at to refine."""
    if work.rule in ("features", CODEC, "evaluate_probe", "pretrain_fit", ACCEPTED):
        return _set_of(work, run).backbone
    if work.owner not in run.recipes:
        return ""
    recipe = run.recipes[work.owner]
    stage = work.rule.partition("_")[0]
    refined = ""
    if stage in ("cut", "paint", "rounds") and work.rule not in (
        "rounds_train",
        "rounds_detect",
        "paint_instances",
        "paint_limits",
        "paint_stuff",
    ):
        refine = recipe.stage(stage).settings.refine.method
        refined = "" if refine == "none" else f"+{refine}"
    if work.rule == "paint_stuff":
        return ""
    if stage == "paint":
        return ("tokens" if recipe.tokens else "regions") + refined
    if stage == "adapt" or work.rule == "evaluate_codes":
        return str(recipe.stage("adapt").method) + ("+backbone" if recipe.unfrozen else "")
    if stage not in ("cut", "regions", "reduce", "foreground", "cluster", "rounds"):
        return ""
    return str(recipe.stage(stage).method) + refined


def _set_of(work: Work, run: Run) -> FeatureSet:
    """The feature set that owns some jobs, or whose backbone they train."""
    return run.feature_sets[work.owner] if work.owner in run.feature_sets else run.trained(work.owner)[1]


def tokens_of(work: Work, run: Run) -> float:
    """Tokens of a square image of the feature set that a rule works on: what its speed is scaled by."""
    if work.rule == "pretrain_fit":
        trained = run.trained(work.owner)[0].stage("pretrain")
        return sum(float(crop.side) ** 2 for crop in trained.module.views(trained.params)) / PATCH**2
    if work.rule in ("features", CODEC, ACCEPTED):
        feature_set, cells = _set_of(work, run), 1
    else:
        recipe = run.recipes[work.owner]
        name = recipe.cut.settings.features if recipe.cut else recipe.regions.settings.features
        feature_set = recipe.behind(name)
        cells = geometry(feature_set).cells
    side = next(side for side in feature_set.size.model_dump().values() if side is not None)
    return (max(1, round(side / geometry(feature_set).stride)) * cells) ** 2


def read_given(path: Path | None, pairs: Iterable[str]) -> dict[str, float]:
    """Units a second by rule, of a JSON file and of `rule=number` pairs, which go before it.

    Raises:
        ConfigError: an unknown rule, or a rate that is no positive number.
    """
    found: dict[str, object] = {}
    if path is not None:
        try:
            body = json.loads(path.read_text())
        except (OSError, json.JSONDecodeError) as error:
            raise ConfigError(f"--throughput: {path}: {error}; expected JSON such as {{'features': 120}}") from None
        if not isinstance(body, dict):
            raise ConfigError(f"--throughput: {path}: expected an object such as {{'features': 120}}, found {body!r}")
        found |= body
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not sign:
            raise ConfigError(f"--images-per-second: {pair!r} is not RULE=NUMBER, such as features=120")
        found[name] = value
    return {name: _rate(name, value) for name, value in found.items()}


def _rate(name: str, value: object) -> float:
    rule = name.partition("/")[0]
    if rule.removesuffix("_joined") not in ORDER:
        raise ConfigError(f"throughput: unknown rule {rule!r}{nearest(rule, ORDER)}; known: {', '.join(ORDER)}")
    try:
        number = float(str(value))
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise ConfigError(f"throughput: {name}: {value!r} is not a positive number of images a second")
    return number


_OWNERLESS = ("weights", "inputs_check")  # rules whose benchmarks have other folders than owners


@dataclass(frozen=True)
class TimedJob:
    """One benchmark file of an earlier run."""

    rule: str
    owner: str
    seconds: float
    memory: float | None


def read_benchmarks(folder: Path) -> list[TimedJob]:
    """Every benchmark below `folder`, with the rule and its owner from the path."""
    found = []
    for job in benchmarks.read(folder):
        rule, owner = job.parts[0], job.parts[1] if len(job.parts) > 1 and job.parts[0] not in _OWNERLESS else ""
        if rule in ORDER:
            found.append(TimedJob(rule, owner, job.seconds, job.memory))
    return found


def too_short(found: Iterable[TimedJob]) -> frozenset[str]:
    """`rule/owner` of jobs that took less than LONG_ENOUGH on average."""
    seconds: dict[str, list[float]] = {}
    for job in found:
        seconds.setdefault(f"{job.rule}/{job.owner}", []).append(job.seconds)
    return frozenset(name for name, each in seconds.items() if sum(each) < LONG_ENOUGH * len(each))


def of_run(
    found: Iterable[TimedJob], run: Run, images: PlannedImages, regions: Mapping[str, float]
) -> dict[str, float]:
    """Seconds a unit by `rule/owner` of an earlier run of the same configuration on `images`.

    A job's start, `START`, is taken off first; jobs shorter than LONG_ENOUGH say little (see `too_short`), so give an
    earlier run shards on which a job takes a minute.
    """
    rates = {}
    jobs_of: dict[tuple[str, str], list[float]] = {}
    for job in found:
        jobs_of.setdefault((job.rule, job.owner), []).append(job.seconds)
    for work in jobs(run, images, dict(regions)):
        seconds = jobs_of.get((work.rule, work.owner))
        if not seconds or not work.jobs or not work.amount:
            continue
        amount = work.amount * len(seconds) / work.jobs  # a run that was cut short has fewer jobs
        working = sum(max(second - START, 0.05 * second) for second in seconds)
        name = f"{rated(work)}/{work.owner}"
        rates[name] = working / amount
    return rates

"""The jobs of a run: how many of each rule, and on what. Mirrors workflow/rules; a test compares the counts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from maskmill.dag.benchmarks import RULES
from maskmill.plan.geometry import geometry
from maskmill.plan.images import Images
from maskmill.recipe.model import CODES, Recipe, Run

Unit = Literal["images", "points", "samples", "jobs"]

ORDER = tuple(rule for rule in RULES if rule != "demo")  # no job of a user's images
MEMORY = {  # MB of a first attempt, as in the rules
    "inputs": 4000, "weights": 2000, "features": 6000, "adapt_neighbours": 4000, "adapt_fit": 6000,
    "adapt_map": 3000, "cut": 3000, "regions": 3000, "reduce_fit": 6000, "reduce_map": 3000, "foreground_fit": 6000,
    "foreground_count": 3000, "foreground_choose": 2000, "cluster_fit": 6000, "cluster_map": 3000,
    "paint_limits": 2000, "paint": 3000, "paint_instances": 3000, "rounds_teach": 3000, "rounds_train": 8000,
    "rounds_detect": 4000, "rounds_predict": 4000, "evaluate": 3000, "evaluate_objects": 3000,
    "evaluate_probe": 6000, "evaluate_codes": 6000, "export": 3000, "report": 3000,
}  # fmt: skip
TWO_THREADS = (
    "inputs", "features", "adapt_neighbours", "adapt_fit", "reduce_fit", "foreground_fit", "cluster_fit",
    "rounds_train", "evaluate_probe", "evaluate_codes",
)  # fmt: skip


@dataclass(frozen=True)
class Work:
    """The jobs of one rule for one owner (a recipe, or the slug of a feature set; empty for the run's own).

    Attributes:
        amount: what all of them work on together, in `unit`s: images, points of a fit, samples of a training (steps
            times batch size), or jobs where nothing grows. shards: a job a shard, so that jobs shrink with the shards.
        network: a backbone runs in the job, on a GPU where there is one. points, depth: of the vectors that a fit
            holds in memory.
    """

    rule: str
    owner: str
    jobs: int
    amount: float
    unit: Unit
    shards: bool
    network: bool = False
    points: int = 0
    depth: int = 0
    threads: int = 1
    memory: int = 0


def regions_an_image(recipe: Recipe) -> float:
    """The most regions that the recipe's cut finds in an image."""
    cut = recipe.stage("cut")
    return int(cut.module.regions_per_image(cut.params, 0 if recipe.adapt is None else recipe.code_length))


def vectors_of(recipe: Recipe, images: Images, regions: float | None = None) -> tuple[int, int, int]:
    """Number of vectors that a recipe clusters, their length before and after its reduction."""
    name = recipe.regions.settings.features
    feature_set = recipe.behind(name)
    shape = geometry(feature_set)
    depth = recipe.code_length if name == CODES else shape.depth
    count = images.tokens(feature_set.size, shape.stride) if recipe.tokens else 0
    if not recipe.tokens:
        count = round(images.count * (regions_an_image(recipe) if regions is None else regions))
    return count, depth, int(recipe.reduce.module.dimensions(recipe.reduce.params, depth))


def used_sets(run: Run) -> dict[str, set[str]]:
    """Slug of every feature set that is extracted -> the rules that read it."""
    found: dict[str, set[str]] = {}
    for recipe in run.recipes.values():
        for name, rules in _readers(recipe).items():
            if name != CODES:
                found.setdefault(recipe.features[name].slug, set()).update(rules)
    if run.config.labels and run.config.evaluate.linear_probe:
        for slug in run.feature_sets:
            found.setdefault(slug, set()).add("evaluate_probe")
    return found


def seeds_of_codes(recipe: Recipe, run: Run) -> int:
    """Seeds whose head makes codes: all where tokens are clustered as they are or codes are probed.

    Cuts, regions and reductions are made once a recipe: they take the codes of the first seed only.
    """
    if recipe.adapt is None:
        return 0
    names = [recipe.regions.settings.features, *([recipe.cut.settings.features] if recipe.cut else [])]
    clustered = CODES in names and recipe.tokens and recipe.reduce.method == "none"
    return len(run.config.seeds) if clustered or probed(recipe, run) else int(CODES in names)


def probed(recipe: Recipe, run: Run) -> bool:
    """True when a linear probe is fitted on the recipe's codes."""
    return bool(run.config.labels) and run.config.evaluate.linear_probe and recipe.global_codes


def _readers(recipe: Recipe) -> dict[str, set[str]]:
    """Name of a recipe's feature set -> rules that read its stores."""
    found: dict[str, set[str]] = {}

    def read(name: str, *rules: str) -> None:
        found.setdefault(name, set()).update(rules)

    if recipe.adapt is not None and not recipe.unfrozen:
        read(recipe.adapt.settings.features, "adapt_fit", "adapt_map")
    if not recipe.tokens:
        cut = recipe.stage("cut").settings
        for name in (cut.features, cut.colour):
            if name is not None:
                read(name, "cut")
        if not recipe.crops:
            read(recipe.regions.settings.features, "regions")
    elif recipe.reduce.method == "none":
        read(recipe.regions.settings.features, "cluster_fit", "paint")
    else:
        read(recipe.regions.settings.features, "reduce_fit", "reduce_map")
    if recipe.foreground is not None:
        read(recipe.foreground.settings.features, "foreground_count")
        if recipe.reduce.method == "none":
            read(recipe.regions.settings.features, "foreground_fit", "foreground_count")
    for r in range(1, recipe.round_count + 1):
        if not recipe.photos(r):
            for name in recipe.rounds_at(r).settings.features:
                read(name, "rounds_train", "rounds_predict")
    return found


def _weights(run: Run) -> set[str]:
    """Slugs of the weights that are fetched."""
    used = used_sets(run)
    found = {fs.weights_slug for slug, fs in run.feature_sets.items() if slug in used}
    for recipe in run.recipes.values():
        if recipe.unfrozen:
            found.add(recipe.behind(CODES).weights_slug)
        if recipe.crops:
            found.add(recipe.features[recipe.regions.settings.features].weights_slug)
        for r in range(1, recipe.round_count + 1):
            if recipe.photos(r):
                found.add(recipe.features[recipe.rounds_at(r).params.encoder].weights_slug)
    return found


def jobs(run: Run, images: Images, regions: dict[str, float] | None = None) -> list[Work]:
    """Every job of a run that starts from nothing, in the order of the workflow; `regions`: recipe -> an image's."""
    found = [*_shared(run, images)]
    for name, recipe in run.recipes.items():
        found += _of_recipe(name, recipe, run, images, (regions or {}).get(name))
    return sorted(found, key=lambda work: ORDER.index(work.rule))


def _shared(run: Run, images: Images) -> Iterator[Work]:
    yield _work("inputs", "", 1, images.count)
    slugs = _weights(run)
    yield _work("weights", "", len(slugs), len(slugs), "jobs")
    used = used_sets(run)
    for slug in used:
        yield _mapped("features", slug, images, network=True)
    if run.config.labels and run.config.evaluate.linear_probe:
        for slug in run.feature_sets:
            yield _work("evaluate_probe", slug, 1, images.count)
    yield _work("report", "", 1, images.shard_count, "jobs")


def _of_recipe(name: str, recipe: Recipe, run: Run, images: Images, regions: float | None) -> Iterator[Work]:
    seeds, labels = len(run.config.seeds), bool(run.config.labels)
    count, depth, reduced = vectors_of(recipe, images, regions)
    if recipe.adapt is not None:
        yield from _adapt(name, recipe, run, images)
    if not recipe.tokens:
        yield _mapped("cut", name, images)
        yield _mapped("regions", name, images, network=recipe.crops)
        yield _mapped("cluster_map", name, images, seeds)
        if labels and run.config.evaluate.objects is not None:
            yield _work("evaluate_objects", name, 1, images.count)
    if recipe.reduce.method != "none":
        method = recipe.reduce.module
        limit = recipe.reduce.settings.max_fit_points or method.TRAITS.max_fit_points
        memory = int(1100 * method.memory_gb(recipe.reduce.params))
        yield _fit("reduce_fit", name, 1, min(count, limit), depth, memory)
        yield _mapped("reduce_map", name, images)
    vector = depth if recipe.reduce.method == "none" else reduced
    if recipe.foreground is not None:
        yield _fit("foreground_fit", name, seeds, min(count, recipe.foreground.settings.max_fit_points), vector)
        yield _mapped("foreground_count", name, images, seeds)
        yield _work("foreground_choose", name, seeds, seeds, "jobs")
    yield _fit("cluster_fit", name, seeds, min(count, recipe.cluster.settings.max_fit_points), vector)
    if not recipe.tokens:
        yield _work("paint_limits", name, seeds, seeds, "jobs")
    yield _mapped("paint", name, images, seeds)
    yield from _rounds(name, recipe, images, seeds)
    if labels:
        scored = seeds * (recipe.round_count + 1)
        yield _work("evaluate", name, scored, scored * images.count)
    yield _work("export", name, 1, images.count)


def _adapt(name: str, recipe: Recipe, run: Run, images: Images) -> Iterator[Work]:
    """The jobs of a head, which is trained once a seed, and of the probe of its codes."""
    stage, seeds, made = recipe.stage("adapt"), len(run.config.seeds), seeds_of_codes(recipe, run)
    if recipe.neighbours:
        yield _work("adapt_neighbours", name, 1, images.count)
    samples = seeds * int(stage.params.steps) * int(stage.params.batch_size)
    threads, memory = (8, 16000) if recipe.unfrozen else (2, MEMORY["adapt_fit"])
    yield Work("adapt_fit", name, seeds, samples, "samples", False, True, 0, 0, threads, memory)
    if made:
        codes = _mapped("adapt_map", name, images, made, network=recipe.unfrozen)
        yield replace(codes, threads=2, memory=6000) if recipe.unfrozen else codes
    if probed(recipe, run):
        yield _work("evaluate_codes", name, seeds, seeds * images.count)


def _rounds(name: str, recipe: Recipe, images: Images, seeds: int) -> Iterator[Work]:
    rounds = range(1, recipe.round_count + 1)
    objects = [r for r in rounds if recipe.instances(r)]
    if objects:
        yield _mapped("paint_instances", name, images, seeds)
        yield _mapped("rounds_detect", name, images, seeds * len(objects), network=True)
    taught = sum(r > 1 for r in objects)
    if taught:
        yield _mapped("rounds_teach", name, images, seeds * taught)
    for photos in (False, True):
        mine = [r for r in rounds if recipe.photos(r) == photos]
        if not mine:
            continue
        steps = [recipe.rounds_at(r).params for r in mine]
        samples = seeds * sum(int(params.steps) * int(params.batch_size) for params in steps)
        threads, memory = (8, 16000) if photos else (2, 8000)
        yield Work("rounds_train", name, seeds * len(mine), samples, "samples", False, True, 0, 0, threads, memory)
        seen = [r for r in mine if not recipe.instances(r)]
        for runs, network in ((len(seen), photos), (len(mine) - len(seen), False)):
            if runs:
                yield _mapped("rounds_predict", name, images, seeds * runs, network=network)


def _mapped(rule: str, owner: str, images: Images, times: int = 1, network: bool = False) -> Work:
    """A job a shard, `times` over."""
    crops = rule == "regions" and network
    threads = 2 if crops or rule in TWO_THREADS else 1
    memory = 6000 if crops else MEMORY[rule]
    total = times * images.count
    return Work(rule, owner, times * images.shard_count, total, "images", True, network, 0, 0, threads, memory)


def _work(rule: str, owner: str, jobs: int, amount: float, unit: Unit = "images") -> Work:
    """Jobs that are not split over shards."""
    threads = 2 if rule in TWO_THREADS else 1
    return Work(rule, owner, jobs, amount, unit, False, threads=threads, memory=MEMORY[rule])


def _fit(rule: str, owner: str, jobs: int, points: int, depth: int, memory: int = 0) -> Work:
    """Fits on `points` vectors [depth] each."""
    network = rule == "cluster_fit"  # the profile for SLURM gives it a GPU
    asked = max(MEMORY[rule], memory)
    return Work(rule, owner, jobs, jobs * points, "points", False, network, points, depth, 2, asked)

"""The work of a run: how many jobs of each rule there are, and how much each kind has to do.

Jobs are counted on the graph of `maskmill.dag.jobs`, built for one shard: what is done once a shard is then multiplied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from maskmill.dag.files import Graph
from maskmill.dag.jobs import ONE_SHARD, Job
from maskmill.dag.jobs import jobs as jobs_of
from maskmill.plan.geometry import geometry
from maskmill.plan.images import PlannedImages
from maskmill.recipe.feature_set import FeatureSet
from maskmill.recipe.model import CODES, Recipe, Run
from maskmill.recipe.stages import RULES, Unit

CODEC = "features_pq"
ACCEPTED = "pretrain_accept"
VIEWED, VIEWED_PIXELS = (64, 256), 256 * 224**2  # photos that it compares, and pixels of all of them: larger are fewer
VIEWS = 2 * 2  # of each photo: two networks see two views of it
ORDER = tuple(rule for rule in RULES if rule != "demo")  # no job of a user's images


@dataclass(frozen=True)
class Work:
    """The jobs of one rule for one owner: a recipe, or the slug of a feature set or of weights that are trained; empty
    for the run's own.

    Attributes:
        amount: what all of them work on together, in `unit`s: images, points of a fit, samples of a training (steps
            times batch size), or jobs where nothing grows. shards: a job a shard, so that jobs shrink with the shards.
        network: a backbone runs in the job, on a GPU where there is one. points, depth: of the vectors that a fit
            holds in memory. joins: puts together what other jobs have made, where the images are many.
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
    joins: bool = False


def vectors_of(recipe: Recipe, images: PlannedImages, regions: float | None = None) -> tuple[int, int, int]:
    """Number of vectors that a recipe clusters, their length before and after its reduction."""
    name = recipe.regions.settings.features
    feature_set = recipe.behind(name)
    shape = geometry(feature_set)
    depth = recipe.code_length if name == CODES else shape.depth
    count = images.tokens(feature_set.size, shape.stride, shape.cells) if recipe.tokens else 0
    if not recipe.tokens:
        count = round(images.count * (recipe.regions_an_image if regions is None else regions))
    return count, depth, int(recipe.reduce.module.dimensions(recipe.reduce.params, depth))


def graph_of(run: Run, images: PlannedImages | None = None) -> Graph:
    """The graph of one shard, and of all parts in which the images are checked where there are so many."""
    count = 0 if images is None else images.count
    return Graph(run, lambda: [ONE_SHARD], lambda: count, lambda: count)


def one_shard(run: Run, images: PlannedImages | None = None) -> dict[str, Job]:
    """The jobs of a run whose images are one shard, by key."""
    found = jobs_of(graph_of(run, images))
    return {key: job for key, job in found.items() if job.rule in ORDER}


def used_sets(run: Run) -> dict[str, set[str]]:
    """Slug of every feature set that is extracted -> the rules that read it."""
    found: dict[str, set[str]] = {}
    graph = one_shard(run)
    owners = {job.key: job.owner for job in graph.values() if job.rule == "features"}
    for job in graph.values():
        for source in job.inputs.values():
            for file in source.files:
                if file in owners:
                    found.setdefault(owners[file], set()).add(job.rule)
    return found


def seeds_of_codes(recipe: Recipe, run: Run) -> int:
    """Seeds whose head makes codes of the images."""
    return sum(job.rule == "adapt_map" and job.owner == recipe.name for job in one_shard(run).values())


def jobs(run: Run, images: PlannedImages, regions: dict[str, float] | None = None) -> list[Work]:
    """Every job of a run that starts from nothing, in the order of the workflow; `regions`: recipe -> an image's."""
    graph = graph_of(run, images)
    groups: dict[tuple[str, str, bool, int, int], list[Job]] = {}
    for job in one_shard(run, images).values():
        needs, network = graph.needs(job.rule, job.wildcards), graph.network(job.rule, job.wildcards)
        groups.setdefault((job.rule, job.owner, network, needs.threads, needs.memory), []).append(job)
    return [
        _work(key, group, run, images, (regions or {}).get(key[1]))
        for key, group in sorted(groups.items(), key=lambda item: ORDER.index(item[0][0]))
    ]


def _work(
    key: tuple[str, str, bool, int, int], group: Sequence[Job], run: Run, images: PlannedImages, regions: float | None
) -> Work:
    """What the jobs of one rule, owner and size have to do."""
    name, owner, network, threads, memory = key
    rule, count = RULES[name], len(group)
    jobs = count * images.shard_count if rule.per_shard else count
    points = depth = 0
    amount: float = images.count if rule.per_part else count * images.count
    if name == "report":
        amount = images.shard_count
    elif name == CODEC:  # the backbone over a sample; the rest is seconds
        code = run.feature_sets[owner].pq
        amount = 0 if code is None else count * min(images.count, code.images)
    elif name == ACCEPTED:
        amount = count * VIEWS * min(images.count, _viewed(run.trained(owner)[1]))
    elif rule.unit == "jobs":
        amount = count
    elif rule.unit == "samples":
        amount = sum(_samples(run, owner, job) for job in group)
    elif rule.unit == "points":
        points, depth = fitted(name, run.recipes[owner], images, regions)
        amount = count * points
    joins = {"checked", "parts"} & set(group[0].inputs) != set()
    return Work(name, owner, jobs, amount, rule.unit, rule.per_shard, network, points, depth, threads, memory, joins)


def _samples(run: Run, owner: str, job: Job) -> int:
    """Steps times batch size of a training."""
    if job.rule == "pretrain_fit":
        trained = run.trained(owner)[0].stage("pretrain")
    elif job.rule == "adapt_fit":
        trained = run.recipes[owner].stage("adapt")
    else:
        trained = run.recipes[owner].rounds_at(int(job.wildcards["round"]))
    return int(trained.params.steps) * int(trained.params.batch_size)


def _viewed(feature_set: FeatureSet) -> int:
    """Photos that are compared before and after a training of the backbone, where there are as many."""
    side = next(side for side in feature_set.size.model_dump().values() if side is not None)
    return int(min(max(VIEWED_PIXELS // side**2, VIEWED[0]), VIEWED[1]))


def fitted(rule: str, recipe: Recipe, images: PlannedImages, regions: float | None) -> tuple[int, int]:
    """Number and length of the vectors that a fit holds in memory."""
    stuff = recipe.paint.settings.stuff
    if rule == "paint_stuff" and stuff is not None:
        feature_set = recipe.behind(stuff.features)
        shape = geometry(feature_set)
        return min(images.tokens(feature_set.size, shape.stride, shape.cells), stuff.max_fit_points), shape.depth
    count, depth, reduced = vectors_of(recipe, images, regions)
    if rule == "reduce_fit":
        limit = recipe.reduce.settings.max_fit_points or int(recipe.reduce.module.TRAITS.max_fit_points)
        return min(count, limit), depth
    stage = recipe.stage("foreground" if rule == "foreground_fit" else "cluster")
    return min(count, int(stage.settings.max_fit_points)), depth if recipe.reduce.method == "none" else reduced

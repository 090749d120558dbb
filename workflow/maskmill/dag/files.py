"""Which job reads, writes and depends on what: the one description of the graph of jobs, in plain Python.

Every stage describes the jobs of its rules in `maskmill/<stage>/files.py`, with `job`: what they write, what they
read, and which values they depend on. From that, `Graph` answers for any job: `inputs`, the files that it reads;
`options`, the same files and those that it writes as options of its `maskmill` verb, so that a list of files and the
options of a command cannot disagree; `depends`, what makes it run again; `needs`, what it asks of the machine. The
rules, `maskmill plan` and `maskmill.dag.jobs` ask this module; none of them names a file by itself.

Wildcards are those of the rules, all strings: `recipe`, `features` (the folder of a feature set), `weights` (the stem
of a backbone's weights), `pretrained` (the same of weights that are trained here), `part` (of the images, where they
are many), `shard`, `seed`, `round`, `readout` (of features or codes, in the stage evaluate) and `candidate` (a way to
cluster the same tokens).
"""

from __future__ import annotations

import importlib
import json
import os
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

from maskmill.images.parts import part_names
from maskmill.images.tables import has_labels, is_table
from maskmill.recipe.feature_set import FeatureSet, ProductCode
from maskmill.recipe.model import CODES, Recipe, Run
from maskmill.recipe.stages import RULES, STAGE_OF, STAGES, Needs
from maskmill.versions import STAGE_VERSION

Wildcards = Mapping[str, str]
RECIPE = "results/recipes/{recipe}"
SEED = f"{RECIPE}/seed{{seed}}"
ROUND = f"{SEED}/round{{round}}"


@dataclass(frozen=True)
class Source:
    """What a job reads under one name.

    Attributes:
        files: in the order of the shards, and of `sets` where it has those.
        passed: how the option of this name is given: `file`; `folder`, that of the files, which are one a shard;
            `sets`, NAME=FOLDER for every feature set; `no` where the files only have to be there.
        sets: names of the feature sets, whose files follow one another in `files`.
        timeless: a later time of the files makes no job run again; their content shows in the job's params.
        asked: False where how the files came about is no part of what is asked of their reader, such as into how many
            parts the images are divided that are checked.
    """

    files: tuple[str, ...]
    passed: Literal["file", "folder", "sets", "no"] = "file"
    sets: tuple[str, ...] = ()
    timeless: bool = False
    asked: bool = True

    def options(self, name: str, given: Sequence[str]) -> list[str]:
        """The option `--name`, rendered from the files as the workflow knows them (a module may move them)."""
        if self.passed == "no" or not given:
            return []
        if self.passed == "file":
            return [f"--{name} {shlex.quote(given[0])}"]
        if self.passed == "folder":
            return [f"--{name} {shlex.quote(os.path.dirname(given[0]))}"]
        each = len(given) // len(self.sets)
        return [
            f"--{name} {shlex.quote(f'{key}={os.path.dirname(given[i * each])}')}" for i, key in enumerate(self.sets)
        ]


Sources = dict[str, Source]
Reads = Callable[["Graph", Wildcards], Sources]
Says = Callable[["Graph", Wildcards], bool]
Depends = Callable[["Graph", Wildcards], Mapping[str, Any]]
Least = Callable[["Graph", Wildcards], int]


@dataclass(frozen=True)
class JobFiles:
    """The jobs of one rule: what they write (name, which is the option of the verb too -> pattern), read, depend on."""

    outputs: Mapping[str, str]
    reads: Reads
    depends: Depends
    network: Says
    large: Says
    memory: Least


_JOBS: dict[str, JobFiles] = {}


def job(
    rule: str,
    depends: Depends | None = None,
    *,
    network: Says | None = None,
    large: Says | None = None,
    memory: Least | None = None,
    **outputs: str,
) -> Callable[[Reads], Reads]:
    """Registers a function that says what the jobs of a rule read.

    Args:
        depends: the values that make a job run again when they change, besides the version of its stage's code; none
            where the files that it reads say everything.
        network: whether a network runs in a job, where the table of stages leaves it to the recipe. large: whether a
            job asks for what the table says of large ones; by default where a network runs. memory: least MB of a job.
        outputs: name -> pattern of a file, or of a folder where it has no ending or that of a Zarr store.
    """

    def register(reads: Reads) -> Reads:
        _JOBS[rule] = JobFiles(
            outputs,
            reads,
            depends or (lambda graph, wildcards: {}),
            network or (lambda graph, wildcards: RULES[rule].network),
            large or network or (lambda graph, wildcards: False),
            memory or (lambda graph, wildcards: 0),
        )
        return reads

    return register


@cache
def jobs_of_rules() -> Mapping[str, JobFiles]:
    """The description of every rule, in the order of the flow."""
    for spec in STAGES:
        importlib.import_module(f"maskmill.{spec.name}.files")
    return {rule: _JOBS[rule] for rule in RULES}


def section(graph: Graph, wildcards: Wildcards, stage: str) -> dict[str, Any]:
    """The whole section of a recipe's stage, flat as in YAML."""
    return graph.recipe(wildcards).stage(stage).as_dict()


def path(rule: str, name: str = "out", **wildcards: object) -> str:
    """What a rule writes, with wildcards filled in where they are given."""
    pattern = jobs_of_rules()[rule].outputs[name]
    return pattern.format(**wildcards) if wildcards else pattern


@dataclass(frozen=True)
class Graph:
    """The jobs of a run.

    Attributes:
        run: the resolved configuration. shards: gives the shards of the manifest; in the workflow it waits for it.
        files: gives how many files the sources of images name, as far as it is known before they are checked.
        images: gives the number of images of the manifest; in the workflow it waits for it.
        sample: gives the hash of the images that a codec is fitted on, likewise; a graph that is made for no images
            has none.
    """

    run: Run
    shards: Callable[[], Sequence[str]]
    files: Callable[[], int] = int
    images: Callable[[], int] = int
    sample: Callable[[ProductCode], str] = lambda code: ""

    @property
    def parts(self) -> list[str]:
        """The parts in which the images are checked; none where they are few and one job checks them."""
        settings, files = self.run.config.inputs, self.files()
        return part_names(min(files, settings.max_images or files), settings.check_files)

    def inputs(self, rule: str, wildcards: Wildcards) -> Sources:
        """What a job reads, by name; a name is an option of the rule's verb."""
        found = jobs_of_rules()[rule].reads(self, wildcards)
        return {name: source for name, source in found.items() if source.files}

    def options(self, rule: str, wildcards: Wildcards, given: Mapping[str, Any], made: Mapping[str, Any]) -> str:
        """The files of a job as options of its verb.

        Args:
            given: what the workflow hands to the job under the names of `inputs`; a module may have moved it. made:
                under the names of the outputs.
        """
        words: list[str] = []
        for name, source in self.inputs(rule, wildcards).items():
            words += source.options(name, listed(given[name]))
        outputs = jobs_of_rules()[rule].outputs
        return " ".join([*words, *(f"--{name} {shlex.quote(listed(made[name])[0])}" for name in outputs)])

    def depends(self, rule: str, wildcards: Wildcards) -> str:
        """JSON of exactly the values that a job depends on and its stage's code version; the rule's `params`."""
        body = jobs_of_rules()[rule].depends(self, wildcards)
        return json.dumps({"version": STAGE_VERSION[STAGE_OF[rule]], **body}, sort_keys=True)

    def network(self, rule: str, wildcards: Wildcards) -> bool:
        """True when a network runs in the job, so that a GPU makes it faster."""
        return jobs_of_rules()[rule].network(self, wildcards)

    def needs(self, rule: str, wildcards: Wildcards) -> Needs:
        """Threads, memory and time of a job's first attempt."""
        known, files = RULES[rule], jobs_of_rules()[rule]
        needs = known.large if known.large is not None and files.large(self, wildcards) else known.needs
        return replace(needs, memory=max(needs.memory, files.memory(self, wildcards)))

    def recipe(self, wildcards: Wildcards) -> Recipe:
        """The recipe that a job belongs to."""
        return self.run.recipes[wildcards["recipe"]]

    def every(self, rule: str, wildcards: Wildcards, name: str = "out") -> Source:
        """What a rule writes for every shard, given to a verb as one folder."""
        return self.all_shards(lambda shard: path(rule, name, **shard), wildcards)

    def all_shards(self, store: Callable[[Wildcards], str], wildcards: Wildcards) -> Source:
        """A file for every shard, given to a verb as one folder."""
        return Source(tuple(store({**wildcards, "shard": shard}) for shard in self.shards()), "folder")

    def tokens(self, wildcards: Wildcards, name: str, seed: str | None = None) -> str:
        """The store of one shard of a recipe's feature set; of the codes of a seed, by default the run's first."""
        if name == CODES:
            return path("adapt_map", **{**wildcards, "seed": seed or str(self.run.config.seeds[0])})
        return path("features", features=self.recipe(wildcards).features[name].slug, shard=wildcards["shard"])

    def vectors(self, wildcards: Wildcards) -> str:
        """What a recipe clusters of one shard, reduced where it has a reduction."""
        if self.recipe(wildcards).reduce.method != "none":
            return path("reduce_map", **wildcards)
        return self.raw_vectors(wildcards, wildcards["seed"])

    def raw_vectors(self, wildcards: Wildcards, seed: str | None = None) -> str:
        """The same before reduction: region vectors, or tokens, or the codes of a seed's head.

        Cuts, regions and reductions are made once a recipe: they take the codes of the first seed.
        """
        recipe = self.recipe(wildcards)
        if not recipe.tokens:
            return path("regions", "vectors", **wildcards)
        return self.tokens(wildcards, recipe.regions.settings.features, seed)

    def labels(self, wildcards: Wildcards) -> Source:
        """What gives vectors a value of the masks: the classes of a recipe, or its clusters where it has no classes."""
        rule = "taxonomy_fit" if self.recipe(wildcards).named else "cluster_fit"
        return one(rule, wildcards)

    def assignments(self, wildcards: Wildcards) -> str:
        """The rule that gives regions their classes, or their clusters."""
        return "taxonomy_map" if self.recipe(wildcards).named else "cluster_map"

    def names(self, wildcards: Wildcards) -> Sources:
        """What the classes are called, in recipes that have classes."""
        return {"classes": one("taxonomy_names", wildcards)} if self.recipe(wildcards).named else {}

    def foreground(self, wildcards: Wildcards) -> Sources:
        """Which tokens are foreground, in a recipe that asks for it."""
        wanted = self.recipe(wildcards).foreground is not None
        return {"foreground": one("foreground_choose", wildcards)} if wanted else {}

    @property
    def labelled(self) -> bool:
        """True when images have labels, in a folder or table of labels, or in the table that names the images."""
        config = self.run.config
        return bool(config.labels) or any(is_table(source) and has_labels(source) for source in config.sources)

    @property
    def scores_objects(self) -> bool:
        """True when the cuts of the run are scored against labelled objects."""
        return self.labelled and self.run.config.evaluate.objects is not None

    def compares(self, recipe: str) -> bool:
        """True when other ways to cluster a recipe's tokens are scored beside its own."""
        wanted = self.labelled and self.run.config.evaluate.candidates is not None
        return wanted and bool(self.run.recipes[recipe].candidates) and not self.run.recipes[recipe].named

    @property
    def probes(self) -> dict[str, list[str]]:
        """Folder of a feature set -> recipes whose codes, learnt on it, are read out too; empty without read-outs."""
        if not self.labelled or not self.run.config.evaluate.readouts:
            return {}
        recipes = [(name, recipe) for name, recipe in self.run.recipes.items() if recipe.global_codes]
        return {
            features: [name for name, recipe in recipes if recipe.behind(CODES).slug == features]
            for features in self.run.feature_sets
        }


def listed(given: str | Iterable[str]) -> list[str]:
    """Snakemake hands over one file as a string, several as a list of names."""
    return [given] if isinstance(given, str) else list(given)


def one(rule: str, wildcards: Wildcards, name: str = "out", timeless: bool = False) -> Source:
    """What one job writes."""
    return Source((path(rule, name, **wildcards),), timeless=timeless)


def manifest(timeless: bool = True) -> Source:
    """The manifest. Jobs of a shard need not watch its time: a shard's name is a hash of its images' contents."""
    return Source((path("inputs", "manifest"),), timeless=timeless)


def candidates(names: Iterable[str], wildcards: Wildcards) -> Source:
    """Clusterings of the same tokens, by name."""
    known = {key: value for key, value in wildcards.items() if key in ("recipe", "seed")}
    return Source(tuple(path("cluster_candidate", candidate=name, **known) for name in names), "folder")


def weights_of(sets: Iterable[FeatureSet], passed: Literal["file", "folder"] = "file") -> Source:
    """The weights of the backbones of some feature sets, of which the stage pretrain makes some.

    Those of a set of several parts are given as their folder.
    """
    parts = [part for each in sets for part in each.parts]
    several = "folder" if len(parts) > 1 else passed
    return Source(tuple(sorted({_weights(part) for part in parts})), several)


def _weights(chosen: FeatureSet) -> str:
    if chosen.pretrain is not None:
        return path("pretrain_accept", pretrained=chosen.weights_slug)
    return path("weights", weights=chosen.weights_slug)


def at(wildcards: Wildcards, round: int) -> Wildcards:
    """The wildcards of a job of another round."""
    return {**wildcards, "round": str(round)}


def masks_rule(round: int) -> str:
    """The rule that writes the masks of a round."""
    return "rounds_predict" if round else "paint"

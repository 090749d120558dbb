"""The one table of stages: what a stage is called, configured with, and made of, in the order of the flow.

Rules, `maskmill plan`, the command line, the JSON schema and the documentation read this table. A new stage is a row
here, a section model in `maskmill.recipe.sections`, its files in `maskmill.dag.files`, a version in
`maskmill.versions`, a rule file, and a folder of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from maskmill.recipe.base import Model
from maskmill.recipe.export import Export
from maskmill.recipe.feature_set import FeatureSet
from maskmill.recipe.inputs import Inputs
from maskmill.recipe.scoring import Evaluate
from maskmill.recipe.sections import (
    Adapt,
    Cluster,
    Cut,
    Foreground,
    Paint,
    Pretrain,
    Reduce,
    Regions,
    Report,
    Rounds,
    Taxonomy,
    Tracks,
)
from maskmill.versions import STAGE_VERSION

Unit = Literal["images", "points", "samples", "jobs"]


@dataclass(frozen=True)
class Needs:
    """What a job asks for: CPU threads, MB of memory and minutes of a first attempt; retries ask for more."""

    threads: int
    memory: int
    minutes: int


@dataclass(frozen=True)
class Rule:
    """A rule of the workflow.

    Attributes:
        needs: of its jobs. large: of those jobs of the rule in which a backbone runs, where a recipe decides that.
        per_shard: one job a shard; else one job a recipe, seed, round or feature set. per_part: one job a part of the
            images, where they are many.
        unit: what the work of its jobs grows with: images; points of a fit; samples of a training (steps times batch
            size); or nothing but the number of jobs.
        whole: reads the feature stores of every shard at once.
        network: a network always runs in its jobs.
    """

    name: str
    needs: Needs
    large: Needs | None = None
    per_shard: bool = False
    per_part: bool = False
    unit: Unit = "images"
    whole: bool = False
    network: bool = False


@dataclass(frozen=True)
class StageSpec:
    """A stage.

    Attributes:
        name: of its section, rule file, package and verb. reads, writes: in words, for the documentation.
        model: the section's keys that all methods share. rules: in the order in which they first run.
        in_recipes: its section belongs to a recipe, else to the run. optional: only in recipes with the section.
        method_key: the key that names its method, where it has methods. default: the method where none is named.
        by_choice: what a run overrides holds only for recipes that have the section themselves.
    """

    name: str
    reads: str
    writes: str
    model: type[Model]
    rules: tuple[Rule, ...]
    in_recipes: bool = True
    optional: bool = False
    method_key: str | None = None
    default: str | None = None
    by_choice: bool = False

    @property
    def version(self) -> int:
        """Version of the stage's code (see `maskmill.versions`)."""
        return STAGE_VERSION[self.name]


STAGES: tuple[StageSpec, ...] = (
    StageSpec(
        "inputs", "images", "manifest, shards, rejected list", Inputs, in_recipes=False,
        rules=(
            Rule("demo", Needs(1, 500, 10), unit="jobs"),
            Rule("inputs_list", Needs(1, 3000, 120)),
            Rule("inputs_check", Needs(1, 3000, 120), per_part=True),
            Rule("inputs", Needs(2, 4000, 240)),
        ),
    ),
    StageSpec(
        "pretrain", "photos", "the weights of a backbone, learnt", Pretrain, optional=True, method_key="method",
        rules=(
            Rule("pretrain_fit", Needs(8, 16000, 720), unit="samples", network=True),
            Rule("pretrain_accept", Needs(2, 8000, 120), network=True),
        ),
    ),
    StageSpec(
        "features", "photos of a shard", "tokens and cls in Zarr", FeatureSet, in_recipes=False,
        rules=(
            Rule("weights", Needs(1, 2000, 30), unit="jobs"),
            Rule("features_pq", Needs(2, 6000, 120), network=True),
            Rule("features", Needs(2, 6000, 120), per_shard=True, network=True),
        ),
    ),
    StageSpec(
        "adapt", "tokens", "a small head, learnt; its codes as a feature set", Adapt, optional=True, by_choice=True,
        method_key="method",
        rules=(
            Rule("adapt_neighbours", Needs(2, 4000, 120), whole=True),
            Rule("adapt_fit", Needs(2, 6000, 240), Needs(8, 16000, 240), unit="samples", whole=True, network=True),
            Rule("adapt_map", Needs(1, 3000, 60), Needs(2, 6000, 60), per_shard=True),
        ),
    ),
    StageSpec(
        "cut", "tokens", "segments, confidence", Cut, optional=True, by_choice=True, method_key="method",
        rules=(Rule("cut", Needs(1, 3000, 120), per_shard=True),),
    ),
    StageSpec(
        "regions", "segments, tokens or photos", "region table, vectors", Regions, method_key="pool", default="mean",
        rules=(Rule("regions", Needs(1, 3000, 60), Needs(2, 6000, 120), per_shard=True),),
    ),
    StageSpec(
        "reduce", "vectors", "vectors", Reduce, method_key="method", default="none",
        rules=(
            Rule("reduce_fit", Needs(2, 6000, 120), unit="points", whole=True),
            Rule("reduce_map", Needs(1, 3000, 60), per_shard=True),
        ),
    ),
    StageSpec(
        "foreground", "tokens", "which of them are background, in recipes without a cut", Foreground, optional=True,
        by_choice=True, method_key="method", default="attention",
        rules=(
            Rule("foreground_fit", Needs(2, 6000, 120), unit="points", whole=True),
            Rule("foreground_count", Needs(1, 3000, 60), per_shard=True),
            Rule("foreground_choose", Needs(1, 2000, 30), unit="jobs"),
        ),
    ),
    StageSpec(
        "cluster", "vectors", "codebook, assignments", Cluster, method_key="method", default="kmeans",
        rules=(
            # The profile for SLURM gives the fit a GPU.
            Rule("cluster_fit", Needs(2, 6000, 120), unit="points", whole=True, network=True),
            Rule("cluster_candidate", Needs(2, 6000, 120), unit="jobs", whole=True, network=True),
            Rule("cluster_map", Needs(1, 3000, 60), per_shard=True),
        ),
    ),
    StageSpec(
        "taxonomy", "clusters", "named classes, and where the clusters lie", Taxonomy, method_key="source",
        default="none",
        rules=(
            Rule("taxonomy_survey", Needs(1, 3000, 60), unit="jobs"),
            Rule("taxonomy_fit", Needs(2, 6000, 120), Needs(2, 8000, 240), unit="jobs", whole=True),
            Rule("taxonomy_names", Needs(1, 1000, 10), unit="jobs"),
            Rule("taxonomy_map", Needs(1, 3000, 60), per_shard=True),
        ),
    ),
    StageSpec(
        "paint", "clusters or classes", "pseudo-masks of round 0", Paint,
        rules=(
            Rule("paint_limits", Needs(1, 2000, 30), unit="jobs"),
            Rule("paint_stuff", Needs(2, 6000, 120), unit="points", whole=True),
            Rule("paint", Needs(1, 3000, 60), per_shard=True),
            Rule("paint_instances", Needs(1, 3000, 60), per_shard=True),
        ),
    ),
    StageSpec(
        "rounds", "masks of round r - 1", "student r, masks of round r", Rounds, method_key="student",
        default="token_head", by_choice=True,
        rules=(
            Rule("rounds_teach", Needs(1, 3000, 60), per_shard=True),
            Rule("rounds_train", Needs(2, 8000, 240), Needs(8, 16000, 240), unit="samples", whole=True, network=True),
            Rule("rounds_detect", Needs(1, 4000, 120), per_shard=True, network=True),
            Rule("rounds_predict", Needs(1, 4000, 60), per_shard=True),
        ),
    ),
    StageSpec(
        "tracks", "the last masks and tokens of neighbouring frames", "one number for one thing", Tracks, optional=True,
        rules=(
            Rule("tracks_match", Needs(1, 3000, 120), per_shard=True),
            Rule("tracks_join", Needs(1, 4000, 240), whole=True),
            Rule("tracks_map", Needs(1, 3000, 60), per_shard=True),
        ),
    ),
    StageSpec(
        "evaluate", "masks or segments, and labels", "scores with their protocol", Evaluate, in_recipes=False,
        rules=(
            Rule("evaluate", Needs(1, 3000, 120)),
            Rule("evaluate_objects", Needs(1, 3000, 120)),
            Rule("evaluate_probe", Needs(2, 6000, 120), whole=True),
            Rule("evaluate_candidates", Needs(2, 4000, 120), whole=True),
            Rule("evaluate_codes", Needs(2, 6000, 120)),
            Rule("evaluate_time", Needs(1, 3000, 120), whole=True),
        ),
    ),
    StageSpec(
        "export", "masks", "PNG, COCO JSON, segmenter", Export, in_recipes=False,
        rules=(Rule("export_shard", Needs(1, 3000, 120), per_shard=True), Rule("export", Needs(1, 3000, 240))),
    ),
    StageSpec(
        "report", "everything", "one HTML file", Report, in_recipes=False,
        rules=(Rule("report", Needs(1, 3000, 60), unit="jobs"),),
    ),
)  # fmt: skip

BY_NAME: dict[str, StageSpec] = {spec.name: spec for spec in STAGES}
RECIPE_STAGES: tuple[str, ...] = tuple(spec.name for spec in STAGES if spec.in_recipes)
RULES: dict[str, Rule] = {rule.name: rule for spec in STAGES for rule in spec.rules}
STAGE_OF: dict[str, str] = {rule.name: spec.name for spec in STAGES for rule in spec.rules}

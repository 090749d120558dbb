"""What the jobs of the stage rounds read, write and depend on. Round r >= 1 reads round r - 1; round 0 is paint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from maskmill.dag.files import (
    ROUND,
    Graph,
    Source,
    Sources,
    Wildcards,
    at,
    job,
    manifest,
    masks_rule,
    one,
    path,
    weights_of,
)
from maskmill.rounds.instance import TEACHING


def _section(graph: Graph, wildcards: Wildcards) -> dict[str, Any]:
    """The section as it holds in the job's round."""
    return graph.recipe(wildcards).rounds_at(int(wildcards["round"])).as_dict()


def _training(graph: Graph, wildcards: Wildcards) -> dict[str, Any]:
    """The section without what no student depends on: more rounds or other checkpoints train nothing again."""
    others = ("count", "checkpoint_steps", "from_round", "refine", *TEACHING)
    return {key: value for key, value in _section(graph, wildcards).items() if key not in others}


def _teaching(graph: Graph, wildcards: Wildcards) -> dict[str, Any]:
    """Which predictions a round learns from."""
    body = _section(graph, wildcards)
    return {key: body[key] for key in TEACHING}


def _refinement(graph: Graph, wildcards: Wildcards) -> dict[str, Any]:
    """What prediction depends on besides its student."""
    return {"refine": _section(graph, wildcards)["refine"]}


def _stored(graph: Graph, wildcards: Wildcards, shards: Sequence[str]) -> Source:
    """The stores of some shards of every feature set that the student of a round sees."""
    sets = graph.recipe(wildcards).student_sets(int(wildcards["round"]))
    files = [path("features", features=each.slug, shard=shard) for each in sets.values() for shard in shards]
    return Source(tuple(files), "sets", tuple(sets))


def _photos(graph: Graph, wildcards: Wildcards) -> bool:
    return graph.recipe(wildcards).photos(int(wildcards["round"]))


def _sees_photos(graph: Graph, wildcards: Wildcards) -> bool:
    """Masks of a student of instances alone are painted from what it detected, without a network."""
    return _photos(graph, wildcards) and not graph.recipe(wildcards).painted_again(int(wildcards["round"]))


@job("rounds_teach", _teaching, out=f"{ROUND}/taught/{{shard}}.zarr")
def _teach(graph: Graph, wildcards: Wildcards) -> Sources:
    """What the round before learnt from and what it predicted, of one shard."""
    round = int(wildcards["round"])
    before = at(wildcards, round - 1)
    taught = one("paint_instances" if round == 2 else "rounds_teach", before)
    return {"taught": taught, "predicted": one("rounds_detect", before)}


@job("rounds_train", _training, large=_photos, out=f"{ROUND}/student.safetensors", timing=f"{ROUND}/training.json")
def _train(graph: Graph, wildcards: Wildcards) -> Sources:
    """Masks of the round before, what the options of round logic ask for, and what the student sees."""
    recipe, round = graph.recipe(wildcards), int(wildcards["round"])
    logic, before = recipe.rounds_at(round).settings, at(wildcards, round - 1)
    found = {"manifest": manifest(), "codebook": graph.labels(wildcards)}
    found["masks"] = graph.every(masks_rule(round - 1), before)
    if logic.keep_labels:
        found["held"] = one("taxonomy_fit", wildcards, "held")
    if recipe.instances(round):  # those of the cut, later what was kept of the predictions
        found["instances"] = graph.every("paint_instances" if round == 1 else "rounds_teach", wildcards)
    if round == 1 and logic.images == "surest":
        found["assignments"] = graph.every(graph.assignments(wildcards), wildcards)
    if round > 1 and (logic.start == "continue" or logic.stop):
        found["before"] = one("rounds_train", before)
    if round > 1 and logic.stop:
        found["earlier"] = graph.every(masks_rule(round - 2), at(wildcards, round - 2))
    if round > 1 and logic.confidence:
        found["confidence"] = graph.every("rounds_predict", before, "confidence")
    if recipe.photos(round):
        found["weights"] = weights_of([recipe.features[recipe.rounds_at(round).params.encoder]])
    else:
        found["features"] = _stored(graph, wildcards, graph.shards())
    return found


@job("rounds_detect", out=f"{ROUND}/instances/{{shard}}.zarr")
def _detect(graph: Graph, wildcards: Wildcards) -> Sources:
    return {"manifest": manifest(), "student": one("rounds_train", wildcards)}


@job(
    "rounds_predict",
    _refinement,
    network=_sees_photos,
    out=f"{ROUND}/masks/{{shard}}.zarr",
    confidence=f"{ROUND}/confidence/{{shard}}.zarr",
)
def _predict(graph: Graph, wildcards: Wildcards) -> Sources:
    """Stored features of one shard, or the instances that were detected there; a student of photos reads those."""
    recipe, round = graph.recipe(wildcards), int(wildcards["round"])
    found = {"manifest": manifest(), "student": one("rounds_train", wildcards)}
    if recipe.painted_again(round):
        return found | {"instances": one("rounds_detect", wildcards)}
    return found if recipe.photos(round) else found | {"features": _stored(graph, wildcards, [wildcards["shard"]])}

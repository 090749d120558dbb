"""What the jobs of the stage pretrain read, write and depend on."""

from __future__ import annotations

from typing import Any

from maskmill.dag.files import Graph, Source, Sources, Wildcards, job, manifest, one, path
from maskmill.recipe.feature_set import STORING, FeatureSet
from maskmill.store.hashing import json_hash

FOLDER = "results/pretrain/{pretrained}"


def _set(graph: Graph, wildcards: Wildcards) -> FeatureSet:
    return graph.run.trained(wildcards["pretrained"])[1]


def _training(graph: Graph, wildcards: Wildcards) -> dict[str, Any]:
    """The backbone, the section, and which the photos are: no store of theirs is an input whose time would tell."""
    chosen = _set(graph, wildcards)
    told = chosen.model_dump(mode="json", include={"backbone", "checkpoint", "channels", "pretrain"})
    return told | {"photos": json_hash(graph.shards())}  # a shard's name is a hash of its images' contents


def _accepting(graph: Graph, wildcards: Wildcards) -> dict[str, Any]:
    """The feature set, as whose features those of the trained backbone are examined, and which weights are taken."""
    recipe, chosen = graph.run.trained(wildcards["pretrained"])
    told = chosen.model_dump(mode="json", exclude=STORING)
    told["pretrain"] = {**told["pretrain"], "accept": recipe.stage("pretrain").settings.accept}
    return told


def _start(graph: Graph, wildcards: Wildcards) -> Sources:
    """The weights that a training starts from; none from scratch."""
    chosen = _set(graph, wildcards)
    if (chosen.pretrain or {}).get("start") == "scratch":
        return {}
    return {"weights": Source((path("weights", weights=chosen.origin_slug),))}


def _segments(graph: Graph, wildcards: Wildcards) -> Sources:
    """The cut of the recipe, for methods that read segments."""
    recipe, _ = graph.run.trained(wildcards["pretrained"])
    if not recipe.stage("pretrain").module.TRAITS.segments:
        return {}
    return {"segments": graph.every("cut", {"recipe": recipe.name})}


@job(
    "pretrain_fit",
    _training,
    out=f"{FOLDER}/trained.safetensors",
    monitor=f"{FOLDER}/monitor.json",
    timing=f"{FOLDER}/timing.json",
)
def _fit(graph: Graph, wildcards: Wildcards) -> Sources:
    graph.shards()  # what it depends on names the photos by their shards, so a training waits for them
    return {"manifest": manifest()} | _start(graph, wildcards) | _segments(graph, wildcards)


@job("pretrain_accept", _accepting, out=f"{FOLDER}/weights.safetensors", report=f"{FOLDER}/report.json")
def _accept(graph: Graph, wildcards: Wildcards) -> Sources:
    return {"manifest": manifest(), "trained": one("pretrain_fit", wildcards)} | _start(graph, wildcards)

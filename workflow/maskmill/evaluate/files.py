"""What the jobs of the stage evaluate read, write and depend on. Without labels none of them is asked for."""

from __future__ import annotations

from typing import Any

from maskmill.dag.files import RECIPE, ROUND, SEED, Graph, Sources, Wildcards, job, manifest, masks_rule


def _section(graph: Graph, objects: bool) -> dict[str, Any]:
    """The section; without its objects for what does not depend on them."""
    return graph.run.config.evaluate.model_dump(mode="json", exclude=set() if objects else {"objects"})


def _of_masks(graph: Graph, wildcards: Wildcards) -> dict[str, Any]:
    """Where a recipe's masks have a background, their foreground is scored if objects are."""
    objects = graph.run.config.evaluate.objects is not None
    return _section(graph, objects=graph.recipe(wildcards).background and objects)


def _of_objects(graph: Graph, wildcards: Wildcards) -> dict[str, Any]:
    return _section(graph, objects=True)


def _of_probes(graph: Graph, wildcards: Wildcards) -> dict[str, Any]:
    return _section(graph, objects=False)


@job("evaluate", _of_masks, out=f"{ROUND}/scores.json")
def _masks(graph: Graph, wildcards: Wildcards) -> Sources:
    """The masks of a round, and its instances where its student predicts some."""
    round = int(wildcards["round"])
    found = {"manifest": manifest(timeless=False), "masks": graph.every(masks_rule(round), wildcards)}
    if graph.recipe(wildcards).instances(round):
        found["instances"] = graph.every("rounds_detect", wildcards)
    return found


@job("evaluate_objects", _of_objects, out=f"{RECIPE}/objects.json")
def _objects(graph: Graph, wildcards: Wildcards) -> Sources:
    return {"manifest": manifest(timeless=False), "cut": graph.every("cut", wildcards)}


@job("evaluate_probe", _of_probes, out="results/evaluate/probe/{features}.json")
def _probe(graph: Graph, wildcards: Wildcards) -> Sources:
    return {"manifest": manifest(timeless=False), "features": graph.every("features", wildcards)}


@job("evaluate_codes", _of_probes, out=f"{SEED}/adapt_probe.json")
def _codes(graph: Graph, wildcards: Wildcards) -> Sources:
    """What a head has made of a feature set: the codes of one seed."""
    return {"manifest": manifest(timeless=False), "features": graph.every("adapt_map", wildcards)}

"""What the jobs of the stage evaluate read, write and depend on. Without labels only `evaluate_time` is asked for."""

from __future__ import annotations

from typing import Any

from maskmill.dag.files import (
    RECIPE,
    ROUND,
    SEED,
    Graph,
    Sources,
    Wildcards,
    at,
    candidates,
    job,
    manifest,
    masks_rule,
    one,
)
from maskmill.recipe.model import Recipe
from maskmill.recipe.scoring import READOUTS


def _section(graph: Graph, *without: str) -> dict[str, Any]:
    """The section, without keys that the job does not depend on."""
    return graph.run.config.evaluate.model_dump(mode="json", exclude=set(without))


def _of_masks(graph: Graph, wildcards: Wildcards) -> dict[str, Any]:
    """Where a recipe's masks have a background, their foreground is scored if objects are."""
    objects = graph.recipe(wildcards).background and graph.run.config.evaluate.objects is not None
    return _section(graph, "candidates", *READOUTS, *(() if objects else ("objects",)))


def _segments(graph: Graph, wildcards: Wildcards) -> str | None:
    """The rule whose instances are scored beside the masks of a round.

    Those that its student predicts; panoptic quality also asks for those that the first student learns from.
    """
    recipe, round = graph.recipe(wildcards), int(wildcards["round"])
    if recipe.instances(round):
        return "rounds_detect"
    first = round == 0 and recipe.instances(1) and graph.run.config.evaluate.panoptic is not None
    return "paint_instances" if first else None


def _of_objects(graph: Graph, wildcards: Wildcards) -> dict[str, Any]:
    return _section(graph, "candidates", "panoptic", "protocols", "background", "boundary", *READOUTS)


def _of_readout(graph: Graph, wildcards: Wildcards) -> dict[str, Any]:
    """What the scores of features and codes depend on: no matching of clusters, and of the read-outs its own."""
    others = (name for name in READOUTS if name != wildcards["readout"])
    return _section(graph, "candidates", "objects", "panoptic", "protocols", "background", "boundary", *others)


def _of_candidates(graph: Graph, wildcards: Wildcards) -> dict[str, Any]:
    """What the masks of the tokens depend on besides their clustering, and how they are scored."""
    recipe = graph.recipe(wildcards)
    shown = recipe.paint.settings.model_dump(mode="json", include={"upsample", "refine"})
    more = {"paint": shown, "own": recipe.cluster.method, "among": _others(recipe)}
    return _section(graph, "candidates", "objects", "panoptic", "boundary", *READOUTS) | more


def _others(recipe: Recipe) -> list[str]:
    """The candidates that are fitted for themselves: not the recipe's own k-means."""
    return [
        name for name in recipe.candidates if recipe.cluster.method == "prototypes" or name != recipe.cluster.method
    ]


def _memory(graph: Graph, wildcards: Wildcards) -> int:
    """MB: of a retrieval, its memory, with tokens of up to 1024 numbers and 256 classes."""
    retrieval = graph.run.config.evaluate.retrieval
    if wildcards["readout"] != "retrieval" or retrieval is None:
        return 0
    return 3000 + retrieval.bank * 1280 * 4 // 10**6


@job("evaluate", _of_masks, out=f"{ROUND}/scores.json")
def _masks(graph: Graph, wildcards: Wildcards) -> Sources:
    """The masks of a round, and its instances where its student predicts some."""
    round, segments = int(wildcards["round"]), _segments(graph, wildcards)
    found = {"manifest": manifest(timeless=False), "masks": graph.every(masks_rule(round), wildcards)}
    if segments is not None:
        found["instances"] = graph.every(segments, wildcards)
    return found | graph.names(wildcards)


@job("evaluate_candidates", _of_candidates, out=f"{SEED}/candidates.json")
def _candidates(graph: Graph, wildcards: Wildcards) -> Sources:
    """Masks of the tokens by each way to cluster them, made here for the labelled images only."""
    recipe = graph.recipe(wildcards)
    return {
        "manifest": manifest(timeless=False),
        "vectors": graph.all_shards(graph.vectors, wildcards),
        "codebook": one("cluster_fit", wildcards),
        "candidates": candidates(_others(recipe), wildcards),
        **graph.foreground(wildcards),
    }


def _of_time(graph: Graph, wildcards: Wildcards) -> dict[str, Any]:
    """Which frames are compared, and whether their masks were made of the features whose flow compares them."""
    recipe, settings = graph.recipe(wildcards), graph.run.config.evaluate.time
    if settings is None:
        return {}
    name = settings.features or recipe.clustered_set
    own = recipe.features[name].slug in {recipe.features[each].slug for each in recipe.masks_from & {*recipe.features}}
    return {"time": settings.model_dump(mode="json"), "name": name, "own": own, "round": recipe.round_count}


@job("evaluate_time", _of_time, out=f"{SEED}/time.json")
def _time(graph: Graph, wildcards: Wildcards) -> Sources:
    """The last masks, and the tokens whose flow they are compared by."""
    recipe, settings = graph.recipe(wildcards), graph.run.config.evaluate.time
    name = (settings.features if settings is not None else None) or recipe.clustered_set
    last = at(wildcards, recipe.round_count)
    return {
        "manifest": manifest(timeless=False),
        "masks": graph.every(masks_rule(recipe.round_count), last),
        "features": graph.all_shards(lambda shard: graph.tokens(shard, name), wildcards),
    }


@job("evaluate_objects", _of_objects, out=f"{RECIPE}/objects.json")
def _objects(graph: Graph, wildcards: Wildcards) -> Sources:
    return {"manifest": manifest(timeless=False), "cut": graph.every("cut", wildcards)}


@job("evaluate_probe", _of_readout, memory=_memory, out="results/evaluate/{readout}/{features}.json")
def _probe(graph: Graph, wildcards: Wildcards) -> Sources:
    """A read-out of a feature set."""
    return {"manifest": manifest(timeless=False), "features": graph.every("features", wildcards)}


@job("evaluate_codes", _of_readout, memory=_memory, out=f"{SEED}/adapt_{{readout}}.json")
def _codes(graph: Graph, wildcards: Wildcards) -> Sources:
    """The same of what a head has made of a feature set: the codes of one seed."""
    return {"manifest": manifest(timeless=False), "features": graph.every("adapt_map", wildcards)}

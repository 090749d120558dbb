"""What the jobs of the stage adapt read, write and depend on."""

from __future__ import annotations

from typing import Any

from maskmill.dag.files import RECIPE, SEED, Graph, Source, Sources, Wildcards, job, manifest, one, section, weights_of
from maskmill.recipe.feature_set import STORING
from maskmill.recipe.model import CODES
from maskmill.recipe.sections import FREEZING, UNFREEZING
from maskmill.store.hashing import json_hash


def _seen(graph: Graph, wildcards: Wildcards) -> Source:
    """The tokens of all shards that a recipe's head learns on."""
    name = graph.recipe(wildcards).stage("adapt").settings.features
    return graph.all_shards(lambda shard: graph.tokens(shard, name), wildcards)


def _table(graph: Graph, wildcards: Wildcards) -> dict[str, Any]:
    """What the table of nearest images depends on."""
    params = graph.recipe(wildcards).stage("adapt").params
    return {"crops": params.crops, "neighbours": params.neighbours}


def _head(graph: Graph, wildcards: Wildcards) -> dict[str, Any]:
    """The section without what this head does not depend on, and the number of prototypes where the recipe takes them.

    A head that learns from photos depends on how they are read and on which they are: no store of theirs is an input
    whose time would tell. One whose backbone is frozen also on how tokens are stored, as it is applied to these.
    """
    recipe = graph.recipe(wildcards)
    others = ("checkpoint_steps", "cache_mib", *(FREEZING if recipe.unfrozen else UNFREEZING))
    body = {key: value for key, value in section(graph, wildcards, "adapt").items() if key not in others}
    if recipe.cluster.method == "prototypes":
        body["clusters"] = recipe.cluster.params.clusters
    if recipe.learns_from_photos:
        exclude = STORING if recipe.unfrozen else None
        body["feature_set"] = recipe.behind(CODES).model_dump(mode="json", exclude=exclude)
        body["photos"] = json_hash(graph.shards())  # a shard's name is a hash of its images' contents
    return body


def _learns_from_photos(graph: Graph, wildcards: Wildcards) -> bool:
    return graph.recipe(wildcards).learns_from_photos


def _unfrozen(graph: Graph, wildcards: Wildcards) -> bool:
    return graph.recipe(wildcards).unfrozen


@job("adapt_neighbours", _table, out=f"{RECIPE}/neighbours.parquet")
def _neighbours(graph: Graph, wildcards: Wildcards) -> Sources:
    return {"manifest": manifest(), "features": _seen(graph, wildcards)}


@job(
    "adapt_fit",
    _head,
    large=_learns_from_photos,
    out=f"{SEED}/adapt/head.safetensors",
    monitor=f"{SEED}/adapt/monitor.json",
    timing=f"{SEED}/adapt/timing.json",
)
def _fit(graph: Graph, wildcards: Wildcards) -> Sources:
    """Stored tokens, or photos with the weights of their backbone; and the table of nearest images."""
    recipe = graph.recipe(wildcards)
    # The manifest says whether a depth map has changed; of photos and tokens shards and stores do.
    found = {"manifest": manifest(timeless="depth" not in recipe.stage("adapt").module.TRAITS.beside)}
    if recipe.learns_from_photos:
        graph.shards()  # what it depends on names the photos by their shards, so a head waits for them
        found["weights"] = weights_of([recipe.behind(CODES)])
    else:
        found["features"] = _seen(graph, wildcards)
    if recipe.neighbours:
        found["neighbours"] = one("adapt_neighbours", wildcards)
    return found


@job("adapt_map", network=_unfrozen, out=f"{SEED}/adapt/{{shard}}.zarr")
def _map(graph: Graph, wildcards: Wildcards) -> Sources:
    """Stored tokens of a shard, or its photos where the head trained its backbone."""
    recipe, head = graph.recipe(wildcards), one("adapt_fit", wildcards)
    if recipe.unfrozen:
        return {"manifest": manifest(), "head": head}
    name = recipe.stage("adapt").settings.features
    return {"features": Source((graph.tokens(wildcards, name),)), "head": head}

"""What the jobs of the stage paint read, write and depend on."""

from __future__ import annotations

from functools import partial
from typing import Any

from maskmill.dag.files import SEED, Graph, Source, Sources, Wildcards, job, manifest, one, section
from maskmill.versions import STAGE_VERSION


def _share(graph: Graph, wildcards: Wildcards) -> dict[str, Any]:
    return {"keep_closest": graph.recipe(wildcards).paint.settings.keep_closest}


@job("paint_limits", _share, out=f"{SEED}/round0/limits.safetensors")
def _limits(graph: Graph, wildcards: Wildcards) -> Sources:
    """Distances are compared over all shards here, so that a shard's own job reads no other shard's files."""
    assignments, codebook = graph.every(graph.assignments(wildcards), wildcards), graph.labels(wildcards)
    return {"manifest": manifest(), "assignments": assignments, "codebook": codebook}


def _fit(graph: Graph, wildcards: Wildcards) -> dict[str, Any]:
    """What the classes of stuff depend on, besides their tokens."""
    stuff = graph.recipe(wildcards).paint.settings.stuff
    body = {} if stuff is None else stuff.model_dump(mode="json", include={"clusters", "max_fit_points"})
    return body | {"kmeans": STAGE_VERSION["cluster"]}


@job("paint_stuff", _fit, out=f"{SEED}/round0/stuff.safetensors")
def _stuff(graph: Graph, wildcards: Wildcards) -> Sources:
    """The tokens of all shards of the feature set that tells stuff apart."""
    return {"manifest": manifest(), "tokens": graph.all_shards(lambda shard: _tokens(graph, shard), wildcards)}


def _tokens(graph: Graph, wildcards: Wildcards) -> str:
    """The store of one shard of that feature set."""
    stuff = graph.recipe(wildcards).paint.settings.stuff
    assert stuff is not None
    return graph.tokens(wildcards, stuff.features)


@job("paint", partial(section, stage="paint"), out=f"{SEED}/round0/masks/{{shard}}.zarr")
def _masks(graph: Graph, wildcards: Wildcards) -> Sources:
    """What is painted, and of stuff its classes and the tokens of the shard."""
    found = _paint(graph, wildcards)
    if graph.recipe(wildcards).paint.settings.stuff is None:
        return found
    return found | {"stuff": one("paint_stuff", wildcards), "tokens": Source((_tokens(graph, wildcards),))}


def _objects(graph: Graph, wildcards: Wildcards) -> dict[str, Any]:
    """The section; of stuff only how many classes it has, as nothing else of it is in the instances."""
    body = section(graph, wildcards, "paint")
    stuff = body.get("stuff")
    return body if stuff is None else body | {"stuff": {"clusters": stuff["clusters"]}}


@job("paint_instances", _objects, out=f"{SEED}/round0/instances/{{shard}}.zarr")
def _paint(graph: Graph, wildcards: Wildcards) -> Sources:
    """Recipes of tokens score their tokens; others paint segments with the clusters of their regions."""
    found = {"manifest": manifest(), "codebook": graph.labels(wildcards)}
    if graph.recipe(wildcards).tokens:
        return found | {"vectors": Source((graph.vectors(wildcards),))} | graph.foreground(wildcards)
    return found | {
        "segments": one("cut", wildcards),
        "assignments": one(graph.assignments(wildcards), wildcards),
        "limits": one("paint_limits", wildcards),
    }

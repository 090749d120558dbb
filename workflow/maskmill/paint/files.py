"""What the jobs of the stage paint read, write and depend on."""

from __future__ import annotations

from functools import partial
from typing import Any

from maskmill.dag.files import SEED, Graph, Source, Sources, Wildcards, job, manifest, one, section


def _share(graph: Graph, wildcards: Wildcards) -> dict[str, Any]:
    return {"keep_closest": graph.recipe(wildcards).paint.settings.keep_closest}


@job("paint_limits", _share, out=f"{SEED}/round0/limits.safetensors")
def _limits(graph: Graph, wildcards: Wildcards) -> Sources:
    """Distances are compared over all shards here, so that a shard's own job reads no other shard's files."""
    assignments, codebook = graph.every(graph.assignments(wildcards), wildcards), graph.labels(wildcards)
    return {"manifest": manifest(), "assignments": assignments, "codebook": codebook}


@job("paint", partial(section, stage="paint"), out=f"{SEED}/round0/masks/{{shard}}.zarr")
@job("paint_instances", partial(section, stage="paint"), out=f"{SEED}/round0/instances/{{shard}}.zarr")
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

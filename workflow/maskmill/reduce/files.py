"""What the jobs of the stage reduce read, write and depend on."""

from __future__ import annotations

from functools import partial

from maskmill.dag.files import RECIPE, Graph, Source, Sources, Wildcards, job, manifest, one, section


def _memory(graph: Graph, wildcards: Wildcards) -> int:
    """MB: what the recipe lets a fit take, and a tenth more."""
    recipe = graph.recipe(wildcards)
    return int(1100 * recipe.reduce.module.memory_gb(recipe.reduce.params))


@job("reduce_fit", partial(section, stage="reduce"), memory=_memory, out=f"{RECIPE}/reduce/model.safetensors")
def _fit(graph: Graph, wildcards: Wildcards) -> Sources:
    return {"manifest": manifest(), "vectors": graph.all_shards(graph.raw_vectors, wildcards)}


@job("reduce_map", partial(section, stage="reduce"), out=f"{RECIPE}/reduce/{{shard}}.zarr")
def _map(graph: Graph, wildcards: Wildcards) -> Sources:
    return {"vectors": Source((graph.raw_vectors(wildcards),)), "model": one("reduce_fit", wildcards)}

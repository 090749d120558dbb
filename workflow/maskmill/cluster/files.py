"""What the jobs of the stage cluster read, write and depend on."""

from __future__ import annotations

from functools import partial

from maskmill.dag.files import SEED, Graph, Source, Sources, Wildcards, job, manifest, one, section


@job(
    "cluster_fit",
    partial(section, stage="cluster"),
    out=f"{SEED}/cluster/codebook.safetensors",
    selection=f"{SEED}/cluster/selection.json",
)
def _fit(graph: Graph, wildcards: Wildcards) -> Sources:
    """The vectors of all shards, without the tokens of a background; the head whose prototypes are the clusters."""
    found = {"manifest": manifest(), "vectors": graph.all_shards(graph.vectors, wildcards)}
    found |= graph.foreground(wildcards)
    if graph.recipe(wildcards).cluster.method == "prototypes":
        found["head"] = one("adapt_fit", wildcards)
    return found


@job("cluster_map", out=f"{SEED}/cluster/{{shard}}.parquet")
def _map(graph: Graph, wildcards: Wildcards) -> Sources:
    return {
        "vectors": Source((graph.vectors(wildcards),)),
        "table": one("regions", wildcards, "table"),
        "codebook": one("cluster_fit", wildcards),
    }

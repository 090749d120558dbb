"""What the jobs of the stage cluster read, write and depend on."""

from __future__ import annotations

from typing import Any

from maskmill.dag.files import SEED, Graph, Source, Sources, Wildcards, job, manifest, one, section


def _fitting(graph: Graph, wildcards: Wildcards) -> dict[str, Any]:
    """The section without what no codebook depends on."""
    return {key: value for key, value in section(graph, wildcards, "cluster").items() if key != "distance"}


def _distance(graph: Graph, wildcards: Wildcards) -> dict[str, Any]:
    return {"distance": graph.recipe(wildcards).cluster.settings.distance}


@job(
    "cluster_fit",
    _fitting,
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


@job("cluster_map", _distance, out=f"{SEED}/cluster/{{shard}}.parquet")
def _map(graph: Graph, wildcards: Wildcards) -> Sources:
    return {
        "vectors": Source((graph.vectors(wildcards),)),
        "table": one("regions", wildcards, "table"),
        "codebook": one("cluster_fit", wildcards),
    }

"""What the jobs of the stage cluster read, write and depend on."""

from __future__ import annotations

from typing import Any

from maskmill.dag.files import SEED, Graph, Source, Sources, Wildcards, candidates, job, manifest, one, section


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
    """The vectors of all shards, without the tokens of a background; the clusterings to choose from, if any."""
    found = _vectors(graph, wildcards)
    names = graph.recipe(wildcards).chosen_from
    if names:
        found["candidates"] = candidates(names, wildcards)
    return found


def _candidate_section(graph: Graph, wildcards: Wildcards) -> dict[str, Any]:
    asked, name = graph.run.config.evaluate.candidates, wildcards["candidate"]
    steps = {"steps": asked.steps} if asked is not None and name == "online" else {}
    unused = ("distance", "restarts") if name == "prototypes" else ("distance",)
    body = graph.recipe(wildcards).candidates[name] | steps
    return {key: value for key, value in body.items() if key not in unused}


@job("cluster_candidate", _candidate_section, out=f"{SEED}/cluster/candidates/{{candidate}}.safetensors")
def _candidate(graph: Graph, wildcards: Wildcards) -> Sources:
    """One way to cluster the tokens; prototypes come from the head."""
    head = {"head": one("adapt_fit", wildcards)} if wildcards["candidate"] == "prototypes" else {}
    return _vectors(graph, wildcards) | head


def _vectors(graph: Graph, wildcards: Wildcards) -> Sources:
    found = {"manifest": manifest(), "vectors": graph.all_shards(graph.vectors, wildcards)}
    return found | graph.foreground(wildcards)


@job("cluster_map", _distance, out=f"{SEED}/cluster/{{shard}}.parquet")
def _map(graph: Graph, wildcards: Wildcards) -> Sources:
    return {
        "vectors": Source((graph.vectors(wildcards),)),
        "table": one("regions", wildcards, "table"),
        "codebook": one("cluster_fit", wildcards),
    }

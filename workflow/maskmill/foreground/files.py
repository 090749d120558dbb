"""What the jobs of the stage foreground read, write and depend on.

Each job depends on a part of the section only: another threshold counts and fits nothing again.
"""

from __future__ import annotations

from typing import Any

from maskmill.dag.files import SEED, Graph, Source, Sources, Wildcards, job, manifest, one, section
from maskmill.versions import STAGE_VERSION

FIT, CHOOSE = ("clusters", "max_fit_points"), ("threshold",)


def _of_fit(graph: Graph, wildcards: Wildcards) -> dict[str, Any]:
    body = section(graph, wildcards, "foreground")
    return {key: body[key] for key in FIT} | {"kmeans": STAGE_VERSION["cluster"]}


def _of_count(graph: Graph, wildcards: Wildcards) -> dict[str, Any]:
    body = section(graph, wildcards, "foreground")
    return {key: value for key, value in body.items() if key not in (*FIT, *CHOOSE, "features")}


def _of_choose(graph: Graph, wildcards: Wildcards) -> dict[str, Any]:
    body = section(graph, wildcards, "foreground")
    return {key: body[key] for key in CHOOSE}


@job("foreground_fit", _of_fit, out=f"{SEED}/foreground/fine.safetensors")
def _fit(graph: Graph, wildcards: Wildcards) -> Sources:
    return {"manifest": manifest(), "vectors": graph.all_shards(graph.vectors, wildcards)}


@job("foreground_count", _of_count, out=f"{SEED}/foreground/{{shard}}.safetensors")
def _count(graph: Graph, wildcards: Wildcards) -> Sources:
    evidence = graph.tokens(wildcards, graph.recipe(wildcards).stage("foreground").settings.features)
    return {
        "vectors": Source((graph.vectors(wildcards),)),
        "features": Source((evidence,)),
        "codebook": one("foreground_fit", wildcards),
    }


@job("foreground_choose", _of_choose, out=f"{SEED}/foreground/codebook.safetensors")
def _choose(graph: Graph, wildcards: Wildcards) -> Sources:
    counts, codebook = graph.every("foreground_count", wildcards), one("foreground_fit", wildcards)
    return {"manifest": manifest(), "counts": counts, "codebook": codebook}

"""What the jobs of the stage taxonomy read, write and depend on."""

from __future__ import annotations

from typing import Any

from maskmill.dag.files import SEED, Graph, Source, Sources, Wildcards, job, manifest, one

FOLDER = f"{SEED}/taxonomy"


def _gallery(graph: Graph, wildcards: Wildcards) -> dict[str, Any]:
    return {"gallery": graph.run.config.report.gallery}


@job(
    "taxonomy_survey",
    _gallery,
    out=f"{FOLDER}/survey.zarr",
    margins=f"{FOLDER}/margins.zarr",
    places=f"{FOLDER}/members.json",
)
def _survey(graph: Graph, wildcards: Wildcards) -> Sources:
    """Vectors and clusters of all shards, of which a sample is looked at."""
    return _clustered(graph, wildcards)


def _clustered(graph: Graph, wildcards: Wildcards) -> Sources:
    """The clusters, what was clustered, and where it lies in the images."""
    found = {
        "manifest": manifest(),
        "codebook": one("cluster_fit", wildcards),
        "vectors": graph.all_shards(graph.vectors, wildcards),
    }
    if not graph.recipe(wildcards).tokens:
        found["cut"] = graph.every("cut", wildcards)
        found["regions"] = graph.every("regions", wildcards, "table")
    return found | graph.foreground(wildcards)


def _grouping(graph: Graph, wildcards: Wildcards) -> dict[str, Any]:
    """What decides which vectors belong together; names and colours are not part of it."""
    recipe = graph.recipe(wildcards)
    stage, limit = recipe.taxonomy, recipe.cluster.settings.max_fit_points
    grouping = stage.module.grouping(stage.params, wildcards["recipe"])
    return {"source": stage.method, "grouping": grouping, "max_fit_points": limit}


def _naming(graph: Graph, wildcards: Wildcards) -> dict[str, Any]:
    stage = graph.recipe(wildcards).taxonomy
    return {"source": stage.method, "naming": stage.module.naming(stage.params, wildcards["recipe"])}


def _network(graph: Graph, wildcards: Wildcards) -> bool:
    """An image-text model looks at photos."""
    return bool(graph.recipe(wildcards).taxonomy.module.TRAITS.photos)


@job(
    "taxonomy_fit",
    _grouping,
    network=_network,
    out=f"{FOLDER}/classes.safetensors",
    held=f"{FOLDER}/held.zarr",
)
def _fit(graph: Graph, wildcards: Wildcards) -> Sources:
    """The clusters, and the vectors of all shards: of members that are clustered again, or of labelled images.

    Photos are read where the manifest says they are; local weights are part of `depends` by their content.
    """
    return _clustered(graph, wildcards)


@job("taxonomy_names", _naming, out=f"{FOLDER}/classes.json", document=f"{FOLDER}/taxonomy.yaml")
def _names(graph: Graph, wildcards: Wildcards) -> Sources:
    return {
        "classes": one("taxonomy_fit", wildcards),
        "codebook": one("cluster_fit", wildcards),
        "places": one("taxonomy_survey", wildcards, "places"),
    }


@job("taxonomy_map", out=f"{FOLDER}/{{shard}}.parquet")
def _map(graph: Graph, wildcards: Wildcards) -> Sources:
    return {
        "vectors": Source((graph.vectors(wildcards),)),
        "assignments": one("cluster_map", wildcards),
        "classes": one("taxonomy_fit", wildcards),
    }

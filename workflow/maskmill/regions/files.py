"""What the jobs of the stage regions read, write and depend on."""

from __future__ import annotations

from typing import Any

from maskmill.dag.files import RECIPE, Graph, Source, Sources, Wildcards, job, manifest, one, section, weights_of


def _regions_section(graph: Graph, wildcards: Wildcards) -> dict[str, Any]:
    """The section; crops pass through a backbone, so they depend on how its feature set reads it, not on its size."""
    recipe, body = graph.recipe(wildcards), section(graph, wildcards, "regions")
    if recipe.crops:
        seen = recipe.features[recipe.regions.settings.features]
        body["feature_set"] = seen.model_dump(mode="json", exclude={"size", "dtype"})
    return body


@job(
    "regions",
    _regions_section,
    network=lambda graph, wildcards: graph.recipe(wildcards).crops,
    table=f"{RECIPE}/regions/{{shard}}.parquet",
    vectors=f"{RECIPE}/regions/{{shard}}.zarr",
)
def _regions(graph: Graph, wildcards: Wildcards) -> Sources:
    """Segments with stored tokens, or with the photos and a backbone; the sizes of the photos where they matter."""
    recipe, segments = graph.recipe(wildcards), one("cut", wildcards)
    name = recipe.regions.settings.features
    if recipe.crops:
        return {"segments": segments, "manifest": manifest(), "weights": weights_of([recipe.features[name]])}
    found = {"segments": segments, "features": Source((graph.tokens(wildcards, name),))}
    return found | {"manifest": manifest()} if recipe.regions.settings.min_pixels else found

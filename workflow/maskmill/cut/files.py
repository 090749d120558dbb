"""What the jobs of the stage cut read, write and depend on."""

from __future__ import annotations

from functools import partial

from maskmill.dag.files import RECIPE, Graph, Source, Sources, Wildcards, job, manifest, section


@job("cut", partial(section, stage="cut"), out=f"{RECIPE}/cut/{{shard}}.zarr")
def _cut(graph: Graph, wildcards: Wildcards) -> Sources:
    """The tokens of a shard, and its colours where the method looks at them; photos are only read to refine."""
    settings = graph.recipe(wildcards).stage("cut").settings
    found = {"features": Source((graph.tokens(wildcards, settings.features),)), "manifest": manifest()}
    if settings.colour is not None:
        found["colour"] = Source((graph.tokens(wildcards, settings.colour),))
    return found

"""What the jobs of the stage features read, write and depend on."""

from __future__ import annotations

from typing import Any

from maskmill.dag.files import Graph, Sources, Wildcards, job, manifest, one, weights_of


def _origin(graph: Graph, wildcards: Wildcards) -> dict[str, Any]:
    """Where the weights come from: any feature set of this backbone says it, also one that is trained further."""
    parts = [part for each in graph.run.feature_sets.values() for part in each.parts]
    sets = [part for part in parts if part.origin_slug == wildcards["weights"]]
    return {"backbone": sets[0].backbone, "checkpoint": sets[0].checkpoint}


def _feature_set(graph: Graph, wildcards: Wildcards) -> dict[str, Any]:
    """The feature set; where tokens become codes, also the images that their codec is fitted on.

    So other labels and images outside that sample, which make the manifest anew, fit no codec and code no tokens of
    other shards again; an image that enters the sample, or changes in it, does both.
    """
    chosen = graph.run.feature_sets[wildcards["features"]]
    body = chosen.model_dump(mode="json")
    return body if chosen.pq is None else body | {"images": graph.sample(chosen.pq)}


@job("weights", _origin, out="resources/weights/{weights}.safetensors")
def _weights(graph: Graph, wildcards: Wildcards) -> Sources:
    return {}


@job("features_pq", _feature_set, out="results/features/{features}/pq.safetensors")
def _features_pq(graph: Graph, wildcards: Wildcards) -> Sources:
    graph.shards()  # waits for the images, as `depends` does
    return {"manifest": manifest(), "weights": weights_of([graph.run.feature_sets[wildcards["features"]]])}


@job("features", _feature_set, out="results/features/{features}/{shard}.zarr")
def _features(graph: Graph, wildcards: Wildcards) -> Sources:
    chosen = graph.run.feature_sets[wildcards["features"]]
    found = {"manifest": manifest(), "weights": weights_of([chosen])}
    if chosen.pq is not None:
        graph.shards()
        # Not timeless, though its content shows in the params: Snakemake compares no params of jobs that follow one
        # that runs again.
        found["codec"] = one("features_pq", {"features": wildcards["features"]})
    return found

"""What the jobs of the stage features read, write and depend on."""

from __future__ import annotations

from typing import Any

from maskmill.dag.files import Graph, Sources, Wildcards, job, manifest, weights_of


def _origin(graph: Graph, wildcards: Wildcards) -> dict[str, Any]:
    """Where the weights come from: any feature set of this backbone says it."""
    sets = [each for each in graph.run.feature_sets.values() if each.weights_slug == wildcards["weights"]]
    return {"backbone": sets[0].backbone, "checkpoint": sets[0].checkpoint}


def _feature_set(graph: Graph, wildcards: Wildcards) -> dict[str, Any]:
    return graph.run.feature_sets[wildcards["features"]].model_dump(mode="json")


@job("weights", _origin, out="resources/weights/{weights}.safetensors")
def _weights(graph: Graph, wildcards: Wildcards) -> Sources:
    return {}


@job("features", _feature_set, out="results/features/{features}/{shard}.zarr")
def _features(graph: Graph, wildcards: Wildcards) -> Sources:
    return {"manifest": manifest(), "weights": weights_of([graph.run.feature_sets[wildcards["features"]]])}

"""What the jobs of the stage features read, write and depend on."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from maskmill.dag.files import Graph, Sources, Wildcards, job, manifest, one, weights_of
from maskmill.store.hashing import json_hash


def _origin(graph: Graph, wildcards: Wildcards) -> dict[str, Any]:
    """Where the weights come from: any feature set of this backbone says it."""
    sets = [each for each in graph.run.feature_sets.values() if each.weights_slug == wildcards["weights"]]
    return {"backbone": sets[0].backbone, "checkpoint": sets[0].checkpoint}


def _feature_set(graph: Graph, wildcards: Wildcards) -> dict[str, Any]:
    """The feature set; where tokens become codes, their codec depends on all images too.

    The name of a shard is a hash of its images. So another file of labels, which makes the manifest anew, fits no
    codec and codes no tokens again, while another image does both.
    """
    chosen = graph.run.feature_sets[wildcards["features"]]
    body = chosen.model_dump(mode="json")
    return body if chosen.pq is None else body | {"images": _hash_of(tuple(graph.shards()))}


@lru_cache(maxsize=4)
def _hash_of(shards: tuple[str, ...]) -> str:
    """Of all images, whatever the order of their shards."""
    return json_hash(sorted(shards))


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
        found["codec"] = one("features_pq", {"features": wildcards["features"]}, timeless=True)
    return found

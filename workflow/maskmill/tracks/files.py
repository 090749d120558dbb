"""What the jobs of the stage tracks read, write and depend on: the last masks, and tokens to compare them by."""

from __future__ import annotations

from functools import partial

from maskmill.dag.files import (
    SEED,
    Graph,
    Source,
    Sources,
    Wildcards,
    at,
    job,
    manifest,
    masks_rule,
    one,
    path,
    section,
)


def _of_shard(graph: Graph, wildcards: Wildcards, tokens: bool) -> Sources:
    """The masks of a shard, its instances where the last round predicts them, and its tokens."""
    recipe = graph.recipe(wildcards)
    last, settings = recipe.round_count, recipe.stage("tracks").settings
    found = {"masks": one(masks_rule(last), at(wildcards, last))}
    if recipe.instances(last):
        found["instances"] = one("rounds_detect", at(wildcards, last))
    if tokens and settings.looks:
        found["features"] = Source((graph.tokens(wildcards, settings.features or recipe.clustered_set),))
    return found


@job(
    "tracks_match", partial(section, stage="tracks"), out=f"{SEED}/tracks/regions/{{shard}}.parquet",
    pairs=f"{SEED}/tracks/pairs/{{shard}}.parquet",
)  # fmt: skip
def _match(graph: Graph, wildcards: Wildcards) -> Sources:
    return {"manifest": manifest()} | _of_shard(graph, wildcards, tokens=True)


@job("tracks_join", partial(section, stage="tracks"), out=f"{SEED}/tracks/tracks.parquet")
def _join(graph: Graph, wildcards: Wildcards) -> Sources:
    """What was found in the shards, and the frames on both sides of their borders."""
    found = {"manifest": manifest(timeless=False)}
    for name, output in {"regions": "out", "pairs": "pairs"}.items():
        found[name] = graph.every("tracks_match", wildcards, output)
    shards = [_of_shard(graph, {**wildcards, "shard": shard}, tokens=True) for shard in graph.shards()]
    for name in shards[0] if shards else ():
        found[name] = Source(tuple(each[name].files[0] for each in shards), "folder")
    return found


@job("tracks_map", partial(section, stage="tracks"), out=f"{SEED}/tracks/ids/{{shard}}.zarr")
def _map(graph: Graph, wildcards: Wildcards) -> Sources:
    tracks = Source((path("tracks_join", recipe=wildcards["recipe"], seed=wildcards["seed"]),))
    return {"manifest": manifest(), "tracks": tracks} | _of_shard(graph, wildcards, tokens=False)

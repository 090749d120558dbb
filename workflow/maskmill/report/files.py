"""What the report reads and depends on: everything."""

from __future__ import annotations

import itertools
from typing import Any

from maskmill.dag.files import Graph, Source, Sources, Wildcards, job, manifest, masks_rule, path

HELD = 0.0003  # MB of an image: 2.8 GB were measured with 10^7 (docs/scaling.md)


def _plan(graph: Graph, wildcards: Wildcards) -> dict[str, Any]:
    """What the report shows: the resolved run, without anything that differs between machines."""
    config = graph.run.config
    recipes = {
        name: {
            "description": recipe.description,
            "tokens": recipe.tokens,
            "rounds": recipe.round_count,
            "clusters": recipe.cluster.params.clusters,
            **({"named": True} if recipe.named else {}),
            "sections": {
                "features": {
                    key: each.model_dump(mode="json", exclude_none=True) for key, each in recipe.features.items()
                },
                **recipe.sections(),
            },
        }
        for name, recipe in graph.run.recipes.items()
    }
    images = ", ".join(config.sources)
    plan = config.report.model_dump(mode="json") | {"images": images}
    plan["labels"] = config.labels or (images if graph.labelled else None)
    if graph.scores_objects:
        plan["objects"] = True
    if graph.labelled and config.evaluate.panoptic is not None:
        plan["panoptic"] = True
    if config.evaluate.time is not None:
        plan["time"] = config.evaluate.time.model_dump(mode="json")  # what deleted results are compared with, too
    if graph.probes:
        plan |= {"probes": graph.probes, "readouts": list(config.evaluate.readouts)}
    if pretrained := _pretrained(graph):
        plan["pretrained"] = pretrained
    return plan | {"seeds": config.seeds, "recipes": recipes}


def _pretrained(graph: Graph) -> dict[str, Any]:
    """The backbones that the run trains, by the name of their folder, and who reads them."""
    found: dict[str, Any] = {}
    for name, recipe in graph.run.recipes.items():
        for key, chosen in recipe.trained_sets.items():
            about = {"backbone": chosen.backbone, "method": (chosen.pretrain or {})["method"], "used": []}
            found.setdefault(chosen.weights_slug, about)["used"].append(f"{name} ({key})")
    return found


def _memory(graph: Graph, wildcards: Wildcards) -> int:
    """MB for what is held of every image."""
    return round(1000 + graph.images() * HELD)


@job("report", _plan, memory=_memory, out="results/report.html")
def _report(graph: Graph, wildcards: Wildcards) -> Sources:
    """Every mask of every recipe, seed and round, the regions behind them, and the scores where labels exist."""
    run, shards = graph.run, graph.shards()
    files: dict[str, list[str]] = {}

    def add(kind: str, rule: str, name: str = "out", **own: object) -> None:
        files.setdefault(kind, []).append(path(rule, name, **own))

    for name, recipe in run.recipes.items():
        for seed in run.config.seeds:
            add("selection", "cluster_fit", "selection", recipe=name, seed=seed)
            if recipe.adapt is not None:
                add("heads", "adapt_fit", "monitor", recipe=name, seed=seed)
            for round in range(recipe.round_count + 1):
                for shard in shards:
                    add("masks", masks_rule(round), recipe=name, seed=seed, round=round, shard=shard)
                if graph.labelled:
                    add("scores", "evaluate", recipe=name, seed=seed, round=round)
            for shard in () if recipe.tokens else shards:
                add("regions", "cluster_map", recipe=name, seed=seed, shard=shard)
            if recipe.named:
                add("classes", "taxonomy_names", recipe=name, seed=seed)
            if graph.compares(name):
                add("scores", "evaluate_candidates", recipe=name, seed=seed)
        first = run.config.seeds[0]
        for output in ("out", "margins", "places"):
            add("survey", "taxonomy_survey", output, recipe=name, seed=first)
        add("codebook", "cluster_fit", recipe=name, seed=first)
        if recipe.named:
            add("taxonomy", "taxonomy_names", "document", recipe=name, seed=first)
        if run.config.evaluate.time is not None:
            add("time", "evaluate_time", recipe=name, seed=first)
        if graph.scores_objects and not recipe.tokens:
            add("objects", "evaluate_objects", recipe=name)
    for readout, (features, probed) in itertools.product(run.config.evaluate.readouts, graph.probes.items()):
        add("probes", "evaluate_probe", features=features, readout=readout)
        for name, seed in itertools.product(probed, run.config.seeds):
            add("probes", "evaluate_codes", recipe=name, seed=seed, readout=readout)
    for slug in _pretrained(graph):
        add("backbones", "pretrain_fit", "monitor", pretrained=slug)
        add("backbones", "pretrain_accept", "report", pretrained=slug)
    found = {"manifest": Source(manifest().files, "no"), "rejected": Source((path("inputs", "rejected"),), "no")}
    return found | {kind: Source(tuple(names), "no") for kind, names in files.items()}

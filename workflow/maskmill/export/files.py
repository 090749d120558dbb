"""What the jobs of the stage export read, write and depend on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

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
    weights_of,
)
from maskmill.recipe.feature_set import FeatureSet
from maskmill.recipe.model import CODES, Recipe


def _section(graph: Graph, wildcards: Wildcards) -> dict[str, Any]:
    return graph.run.config.export.model_dump(mode="json")


def _of_images(graph: Graph, wildcards: Wildcards) -> dict[str, tuple[str, str, Wildcards]]:
    """What is read of every shard: rule, output and wildcards by name."""
    recipe = graph.recipe(wildcards)
    last = at(wildcards, recipe.round_count)
    found = {"masks": (masks_rule(recipe.round_count), "out", last)}
    if not recipe.tokens:
        found["cut"] = ("cut", "out", wildcards)
        found["regions"] = ("regions", "table", wildcards)
        found["assignments"] = (graph.assignments(wildcards), "out", wildcards)
    if recipe.instances(recipe.round_count):
        found["instances"] = ("rounds_detect", "out", last)
    if recipe.tracks is not None:
        found["tracks"] = ("tracks_map", "out", wildcards)
    return found


@job("export_shard", _section, out=f"{SEED}/exported/{{shard}}")
def _export_shard(graph: Graph, wildcards: Wildcards) -> Sources:
    """Masks and regions of a shard, where the images are many."""
    found = {name: one(rule, known, output) for name, (rule, output, known) in _of_images(graph, wildcards).items()}
    return {"manifest": manifest()} | found | graph.names(wildcards)


@job("export", _section, out=f"{SEED}/export")
def _export(graph: Graph, wildcards: Wildcards) -> Sources:
    """Masks of the last round, regions where the recipe has a cut, and what segments new images.

    Where the images are many, what a job a shard has made of them is read; how that is divided changes no byte, so what
    is asked of this job stays the same.
    """
    recipe = graph.recipe(wildcards)
    last = at(wildcards, recipe.round_count)
    found = {"manifest": manifest(timeless=False)}
    for name, (rule, output, known) in _of_images(graph, wildcards).items():
        found[name] = graph.every(rule, known, output)
    if graph.images() > graph.run.config.export.single_images:
        others = {
            name: replace(source, passed="no") for name, source in found.items() if name not in ("manifest", "masks")
        }
        found |= others | {"parts": replace(graph.every("export_shard", wildcards), asked=False)}
    found |= _segmenter(graph, wildcards) | graph.names(wildcards)
    seen = _run_on_new_images(recipe)
    trained = {name: each for name, each in seen.items() if each.pretrain is not None}
    found["weights"] = weights_of([each for name, each in seen.items() if name not in trained], "folder")
    found["trained"] = Source(tuple(weights_of([each]).files[0] for each in trained.values()), "sets", tuple(trained))
    coded = {name: each.slug for name, each in seen.items() if each.pq is not None}
    found["codecs"] = Source(tuple(path("features_pq", features=slug) for slug in coded.values()), "sets", tuple(coded))
    if graph.labelled:
        found["scores"] = one("evaluate", last)
    return found


def _segmenter(graph: Graph, wildcards: Wildcards) -> Sources:
    """What segments new images: the last student, or clusters of tokens and what makes their vectors."""
    recipe = graph.recipe(wildcards)
    if recipe.round_count:
        return {"student": one("rounds_train", at(wildcards, recipe.round_count))}
    if not recipe.tokens:
        return {}
    found = {"codebook": graph.labels(wildcards)} | graph.foreground(wildcards)
    reduced = recipe.reduce.method != "none"
    if reduced:
        found["reduction"] = one("reduce_fit", wildcards)
    if recipe.regions.settings.features == CODES:
        # Reductions are made once a recipe, of the codes of the first seed.
        seed = str(graph.run.config.seeds[0]) if reduced else wildcards["seed"]
        found["head"] = one("adapt_fit", {**wildcards, "seed": seed})
    return found


def _run_on_new_images(recipe: Recipe) -> dict[str, FeatureSet]:
    """The feature sets whose backbone runs on new images; a head that trained its backbone has it in its file."""
    if recipe.round_count:
        return recipe.student_sets(recipe.round_count)
    if not recipe.tokens or (recipe.unfrozen and recipe.regions.settings.features == CODES):
        return {}
    return _clustered_set(recipe)


def _clustered_set(recipe: Recipe) -> dict[str, FeatureSet]:
    """The feature set whose tokens a recipe clusters, or the one behind the codes that it clusters."""
    name = recipe.regions.settings.features
    if name == CODES:
        name = recipe.stage("adapt").settings.features
    return {name: recipe.features[name]}


def segmenter_section(recipe: Recipe) -> dict[str, Any]:
    """What a segmenter needs to know besides its files: feature sets, refinement, and the size of a mask cell.

    A student says which of the recipe's feature sets it sees; clusters of tokens are those of one.
    """
    clusters = recipe.tokens and not recipe.round_count
    sets = _clustered_set(recipe) if clusters else recipe.features
    last = recipe.rounds_at(recipe.round_count).settings if recipe.round_count else recipe.paint.settings
    return {
        "feature_sets": {name: each.model_dump(mode="json") for name, each in sets.items()},
        "refine": last.refine.model_dump(mode="json"),
        "upsample": recipe.paint.settings.upsample if clusters else 1,
    }

"""What a whole run needs of its recipes, its images and its labels, beyond what the stages of one recipe need."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from maskmill.errors import ConfigError, InputError, nearest
from maskmill.recipe import backbones
from maskmill.recipe.checks import why_photos
from maskmill.recipe.export import PALETTE, PALETTED, Export
from maskmill.recipe.feature_set import LONGEST, FeatureSet
from maskmill.recipe.inputs import Inputs, Window
from maskmill.recipe.model import Recipe
from maskmill.recipe.scoring import Evaluate


def check_channels(recipe: Recipe, path: Path, inputs: Inputs) -> None:
    """Feature sets of all channels are of a run that reads all of them, and nothing takes their network for photos.

    Raises:
        ConfigError: names the feature set, what sees three colours through it, and the way out.
    """
    seen = {}
    if recipe.learns_from_photos:
        seen[recipe.stage("adapt").settings.features] = f"{why_photos(recipe)} learns from photos"
    if recipe.crops:
        seen[recipe.regions.settings.features] = f"regions.pool: {recipe.regions.method} looks at crops of photos"
    for round in range(1, recipe.round_count + 1):
        if recipe.photos(round):
            stage = recipe.rounds_at(round)
            seen[stage.params.encoder] = f"rounds.student: {stage.method} learns from photos"
    for name, chosen in recipe.features.items():
        if chosen.channels != "all":
            continue
        if inputs.channels != "all":
            raise ConfigError(
                f"{path}: features.{name}.channels: all needs inputs.channels: all; set it too, or drop the key"
            )
        if name in seen:
            raise ConfigError(
                f"{path}: features.{name}: sees all channels (inputs.channels: all), but {seen[name]} of three "
                f"colours; set features.{name}.channels: shown, or name another feature set there"
            )


def check_counts(recipes: Mapping[str, Recipe], images: int) -> None:
    """No recipe wants more clusters than `images` images can have vectors to cluster.

    Asked once the images are listed, and before that where `inputs.max_images` says how many there are at most. It is
    an upper bound: fewer distinct vectors are an error of the clustering itself.

    Raises:
        ConfigError: names the recipe, the key, both numbers, and what limits them.
    """
    for name, recipe in recipes.items():
        clusters, key = _least(recipe)
        if recipe.tokens:
            each, what = _tokens_at_most(recipe.behind(recipe.regions.settings.features)), "tokens"
        else:
            each, what = recipe.regions_an_image, "regions"
        if clusters is not None and clusters > images * each:
            source = what if recipe.tokens else f"{what} (cut: {recipe.stage('cut').method})"
            many = "1 image has" if images == 1 else f"{images} images have"
            raise ConfigError(
                f"recipe {name}: {key}: {clusters} clusters, but {many} at most {images * each} {source}, "
                f"{each} an image; set {key} to {images * each} or less, or use more images"
            )


def check_formats(recipes: Mapping[str, Recipe], export: Export) -> None:
    """Every format of `export.formats` can hold the clusters of every recipe, as far as their number is known.

    Raises:
        ConfigError: names the format, the recipe and both numbers.
    """
    small = [name for name in export.formats if name in PALETTED]
    for name, recipe in recipes.items():
        clusters, key = (None, "") if recipe.named else _least(recipe)
        if small and clusters is not None and clusters > PALETTE:
            raise ConfigError(
                f"export.formats: {small[0]} holds at most {PALETTE} classes, but recipe {name} has {key}: {clusters}; "
                f"leave {small[0]} out, or set {key} lower"
            )


def check_time(recipes: Mapping[str, Recipe], settings: Evaluate) -> None:
    """Every recipe has the feature set that `evaluate.time` names.

    Raises:
        ConfigError: names the recipe, the feature set and those that it has.
    """
    wanted = settings.time.features if settings.time is not None else None
    for name, recipe in recipes.items():
        if wanted is not None and wanted not in recipe.features:
            raise ConfigError(
                f"evaluate.time.features: recipe {name} has no feature set {wanted!r}"
                f"{nearest(wanted, recipe.features)}; known: {', '.join(recipe.features)}"
            )


def check_window(recipes: Mapping[str, Recipe], window: Window | None) -> None:
    """A window has at least the pixels of one token of every feature set, as far as its backbone says its stride.

    Raises:
        ConfigError: names the feature set, and both numbers.
    """
    for name, recipe in recipes.items():
        for key, feature_set in recipe.features.items():
            stride = _stride(feature_set)
            if window is not None and stride is not None and window.size < stride:
                raise ConfigError(
                    f"inputs.window.size: {window.size} pixels are less than one token of {feature_set.backbone} "
                    f"({stride} pixels; recipe {name}, features.{key}); set it to many times that"
                )


def _least(recipe: Recipe) -> tuple[int | None, str]:
    """The least number of clusters that a recipe makes, None where the data say it, and the key that says so."""
    traits, params = recipe.cluster.module.TRAITS, recipe.cluster.params
    if traits.counted and params.auto:
        return int(params.range[0]), "cluster.range"
    return None if traits.finds_number else params.clusters, "cluster.clusters"


def _tokens_at_most(feature_set: FeatureSet) -> int:
    """The most tokens of an image: exact for square sizes and networks that say their stride, else far above."""
    stride = _stride(feature_set) or 1
    size = feature_set.size
    if size.short_side is not None:
        sides = size.short_side, LONGEST * size.short_side
    else:
        side = int(size.square or size.long_side or 0)
        sides = side, side
    finer = feature_set.upsample.factor if feature_set.upsample is not None else 1
    return max(1, round(sides[0] / stride)) * max(1, round(sides[1] / stride)) * finer**2


def _stride(feature_set: FeatureSet) -> int | None:
    """Pixels a token, as far as the set, the backbone or its name says it."""
    named = re.search(r"patch(\d+)", feature_set.backbone)  # as timm's ViTs are named
    told = feature_set.stride or backbones.of(feature_set.backbone).stride
    return told or (int(named.group(1)) if named else None)


def check_labels(settings: Evaluate, pixels: Mapping[int, int]) -> None:
    """A score of these labels can be wrong: at least two classes are left after `ignore` and `classes`.

    With one class, whatever cluster takes it scores 100.

    Args:
        pixels: {label id: its pixels in all labels}; nothing is checked without labels.

    Raises:
        InputError: names the ids found, their share of the pixels, and the keys.
    """
    there = {label: count for label, count in sorted(pixels.items()) if count}
    scored = [i for i in there if i not in settings.ignore and (settings.classes is None or i in settings.classes)]
    if not there:
        return
    if len(scored) > 1:
        if "hungarian_iou_background" in settings.protocols and settings.background not in scored:
            raise InputError(
                f"evaluate.background: {settings.background}: no label has this id, to which protocol "
                f"hungarian_iou_background sends surplus clusters; name one of {scored[:12]}, or drop the protocol"
            )
        return
    total, many = sum(there.values()), sorted(there, key=lambda i: (-there[i], i))[:8]
    shares = ", ".join(f"{label} ({100 * there[label] / total:.3g} %)" for label in sorted(many))
    found = f"{len(there)} label {'id' if len(there) == 1 else 'ids'}, {shares}{', ...' if len(there) > 8 else ''}"
    left = "none of them is scored"
    if scored:
        left = f"{scored[0]} alone is scored, and a single class scores 100 whatever the masks are"
    keys = f"evaluate.ignore: {settings.ignore}"
    if settings.classes is not None:
        keys += f" and evaluate.classes: {settings.classes}"
    raise InputError(
        f"labels: found {found}; with {keys} {left}; change them so that two of these ids are scored, "
        "or leave labels out"
    )

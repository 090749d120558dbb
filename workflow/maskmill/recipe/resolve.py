"""Recipes resolved: defaults < recipe file < sections of config.yaml, validated before any job starts.

`load` turns the dictionary that Snakemake read into a `Run`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, cast

from pydantic import BeforeValidator, Field, create_model

from maskmill.errors import ConfigError, nearest, one_line
from maskmill.recipe.base import Model, check_name, switch, validate
from maskmill.recipe.checks import check
from maskmill.recipe.documents import check_tree, read_mapping
from maskmill.recipe.feature_set import FeatureSet
from maskmill.recipe.model import Recipe, Run, Stage
from maskmill.recipe.origin import Origin, place
from maskmill.recipe.registry import available
from maskmill.recipe.run_checks import (
    check_channels,
    check_counts,
    check_formats,
    check_time,
    check_window,
)
from maskmill.recipe.sections import Config, Rounds
from maskmill.recipe.stages import BY_NAME, RECIPE_STAGES
from maskmill.redact import redact
from maskmill.store.hashing import json_hash
from maskmill.urls import is_url, refusal

SHIPPED = (
    Path(__file__).parents[1] / "shipped"
).resolve()  # a link to recipes/ in a checkout, a folder where installed
_SECTIONS: dict[str, Any] = dict.fromkeys(RECIPE_STAGES, (dict[str, Any] | None, None))
_SECTIONS["tracks"] = (
    Annotated[dict[str, Any] | None, BeforeValidator(switch, json_schema_input_type=bool | dict[str, Any] | None)],
    None,
)  # alone has no method
# The keys of config.yaml: those of the run, and the sections of recipes that the run overrides.
RunConfig: type[Config] = create_model("Config", __base__=Config, **_SECTIONS)


class _Preset(Model):
    """Settings of a recipe that belong together, by name: `preset: small`. They lie over the recipe's own."""

    features: dict[str, dict[str, Any]] = Field(default_factory=dict)


Preset: type[_Preset] = create_model("Preset", __base__=_Preset, **_SECTIONS)


class _RecipeFile(_Preset):
    """The keys of a recipe file."""

    description: str = ""
    features: dict[str, dict[str, Any]]
    presets: dict[str, Preset] = Field(default_factory=dict)  # type: ignore[valid-type]


RecipeFile: type[_RecipeFile] = create_model("RecipeFile", __base__=_RecipeFile, **_SECTIONS)


def load(config: Mapping[str, Any], recipe_folder: str | Path, origin: str | Origin = "config.yaml") -> Run:
    """Validate a configuration and resolve its recipes.

    Args:
        recipe_folder: where recipes are found by name. origin: where the configuration came from, for messages.

    Raises:
        ConfigError: one line with origin, key, value, and the nearest known key or the allowed range.
    """
    try:
        return _load(config, Path(recipe_folder), origin)
    except ConfigError as error:
        raise ConfigError(one_line(redact(str(error)))) from None


def _load(config: Mapping[str, Any], recipe_folder: Path, origin: str | Origin) -> Run:
    check_tree(config, place(origin, ()))
    checked = validate(RunConfig, config, origin)
    files = {given: _read(given, recipe_folder, origin) for given in checked.recipes}
    _check_names(checked, [file for _, file in files.values()], recipe_folder, origin)
    recipes = {}
    for given in checked.recipes:
        recipe = _resolve(*files[given], checked, origin)
        if recipe.name in recipes:
            raise _wrong(origin, "recipes", f"{recipe.name!r} is given twice; keep one")
        recipes[recipe.name] = recipe
    recipes = {name: _served(recipe, list(recipes), checked) for name, recipe in recipes.items()}
    if not recipes:
        raise _wrong(origin, "recipes", "empty; name at least one, for example recipes: [kmeans]")
    if "method" in (getattr(checked, "pretrain", None) or {}) and not any(each.pretrain for each in recipes.values()):
        raise _wrong(
            origin, "pretrain", "no feature set of this run has backbone: {pretrain: NAME}; set that, or drop it"
        )
    _check_accepted(recipes)
    check_formats(recipes, checked.export)
    check_window(recipes, checked.inputs.window)
    check_time(recipes, checked.evaluate)
    if checked.inputs.max_images is not None and checked.inputs.one_picture:
        check_counts(recipes, checked.inputs.max_images)
    return Run(config=checked, recipes=recipes)


def _served(recipe: Recipe, recipes: Sequence[str], config: Config) -> Recipe:
    """The recipe, without a taxonomy where that of the run is one of other recipes; labels have the run's names."""
    stage = recipe.taxonomy
    if not stage.module.serves(stage.params, recipe.name, recipes, len(config.seeds)):
        stage = Stage.of("taxonomy", {})
    elif stage.module.TRAITS.labels and stage.params.class_names is None:
        params = stage.params.model_copy(update={"class_names": dict(config.evaluate.class_names)})
        stage = replace(stage, params=params)
    clusters, traits = recipe.cluster.params.clusters, recipe.cluster.module.TRAITS
    if isinstance(clusters, int) and (traits.counted or traits.reads_head):  # other methods find their number
        stage.module.check_clusters(stage.params, recipe.name, clusters)
    return replace(recipe, stages={**recipe.stages, "taxonomy": stage})


def _read(given: str, folder: Path, origin: str | Origin) -> tuple[Path, _RecipeFile]:
    """A recipe file by name or path."""
    path = _recipe_path(given, folder, origin)
    check_name(path.stem, f"{place(origin, ['recipes'])}: recipes: {path}")
    file = validate(RecipeFile, read_mapping(path), str(path))
    for name in file.features:
        check_name(name, f"{path}: features")
    return path, file


def _check_names(config: Config, files: Sequence[_RecipeFile], folder: Path, origin: str | Origin) -> None:
    """Feature sets that the run names are in one of its recipes, presets in one of them or of the folder.

    A recipe without the preset is small as it is, so a run of such recipes alone is no mistake.
    """
    own = {name for file in files for name in file.presets}
    for preset in config.preset:
        if preset in own:
            continue
        shipped = {name for path in folder.glob("*.yaml") for name in _read(str(path), folder, origin)[1].presets}
        known = sorted(own | shipped)
        if preset not in known:
            raise _wrong(
                origin, "preset", f"no recipe has {preset!r}{nearest(preset, known)}; known: {', '.join(known)}"
            )
    for name in config.features.keys() - {"keep"}:
        sets = {name for file in files for part in (file, *file.presets.values()) for name in part.features}
        if name not in sets:
            raise _wrong(origin, f"features.{name}", "no recipe of this run has a feature set of this name")


def _resolve(path: Path, file: _RecipeFile, config: Config, origin: str | Origin) -> Recipe:
    """One recipe: its file, the presets of the run that it has, the run's overrides, in this order; validated."""
    parts: list[_Preset] = [file, *(file.presets[name] for name in config.preset if name in file.presets)]
    features = {}
    everywhere = {"keep": config.features["keep"]} if "keep" in config.features else {}
    first = {"channels": "all"} if config.inputs.channels == "all" else {}
    for name in dict.fromkeys(name for part in parts for name in part.features):
        merged: dict[str, Any] = dict(first)
        for section in (*(part.features.get(name, {}) for part in parts), everywhere, config.features.get(name, {})):
            merged |= cast("dict[str, Any]", section)
        where = _origin(path, origin, ["features", name], name in config.features)
        features[name] = validate(FeatureSet, merged, where, f"features.{name}")
    stages: dict[str, Stage[Any]] = {}
    later: dict[int, Stage[Rounds]] = {}
    for spec in (BY_NAME[name] for name in RECIPE_STAGES):
        given = [section for part in parts if (section := getattr(part, spec.name)) is not None]
        override = getattr(config, spec.name) or {}
        if spec.by_choice and not given:  # the run's overrides give no cut and no rounds to a recipe without
            if not spec.optional:
                stages[spec.name] = Stage.of(spec.name, {}, str(path))
            continue
        if spec.optional and not given and getattr(config, spec.name) is None:
            continue
        if spec.name == "pretrain" and not given and not any(each.pretrain is not None for each in features.values()):
            continue  # that of the run is for other recipes
        where = _origin(path, origin, [spec.name], bool(override))
        if spec.name == "rounds":
            stages["rounds"], later = _rounds([*given, override], where)
        else:
            stages[spec.name] = Stage.of(spec.name, _fold(spec.name, [*given, override]), where)
    features = _trained(path, features, stages)
    recipe = Recipe(path.stem, file.description, features, stages, later)
    check(recipe, path)
    check_channels(recipe, path, config.inputs)
    return recipe


def _trained(path: Path, features: Mapping[str, FeatureSet], stages: Mapping[str, Stage[Any]]) -> dict[str, FeatureSet]:
    """The feature sets, those whose backbone is trained with the section that says how."""
    stage, named = stages.get("pretrain"), [name for name, chosen in features.items() if chosen.pretrain is not None]
    for name in named:
        if features[name].pretrain:
            raise ConfigError(f"{path}: features.{name}.pretrain: is set by backbone: {{pretrain: NAME}}; write that")
    if named and stage is None:
        raise ConfigError(
            f"{path}: features.{named[0]}.backbone: {{pretrain: ...}}, but there is no section that says how it is "
            "trained; add pretrain: {method: dino} or another of "
            f"{', '.join(available('pretrain'))}"
        )
    if stage is not None and not named:
        some = next(iter(features), "semantic")
        raise ConfigError(
            f"{path}: pretrain: no feature set uses it; set features.{some}.backbone: {{pretrain: NAME}}, or drop the "
            "section"
        )
    if stage is None or not named:
        return dict(features)
    others = ("checkpoint_steps", "cache_mib", "accept")  # change nothing of what is trained
    body = {key: value for key, value in stage.as_dict().items() if key not in others}
    if stage.module.TRAITS.segments:
        body["segments"] = _segments(features, stages)
    return {
        name: chosen.model_copy(update={"pretrain": body}) if name in named else chosen
        for name, chosen in features.items()
    }


def _segments(features: Mapping[str, FeatureSet], stages: Mapping[str, Stage[Any]]) -> str:
    """A hash of what the segments that a training reads are made of; another cut makes another backbone."""
    read = {name: stages[name] for name in ("cut", "adapt") if name in stages}
    names = {stage.settings.features for stage in read.values()}
    if "cut" in read:
        names.add(read["cut"].settings.colour)
    sets = {name: each.model_dump(mode="json") for name, each in features.items() if name in names}
    return json_hash([{name: stage.as_dict() for name, stage in read.items()}, sets])


def _check_accepted(recipes: Mapping[str, Recipe]) -> None:
    """Recipes that share a training go on with the same weights."""
    rules: dict[str, tuple[str, str]] = {}
    for recipe in recipes.values():
        for chosen in recipe.trained_sets.values():
            own = str(recipe.stage("pretrain").settings.accept)
            other, rule = rules.setdefault(chosen.weights_slug, (recipe.name, own))
            if rule != own:
                raise ConfigError(
                    f"recipe {recipe.name}: pretrain.accept: {own}, but recipe {other}, which shares this training, "
                    f"has {rule}; set pretrain: {{accept: {own}}} for the run, or another pretrain.seed in one of them"
                )


def _recipe_path(given: str, folder: Path, origin: str | Origin) -> Path:
    """A recipe of the folder by name; or a file by path, from the working directory or from where the workflow lies."""
    if is_url(given):
        raise _wrong(origin, "recipes", refusal(given))
    path = Path(given) if given.endswith((".yaml", ".yml")) else folder / f"{given}.yaml"
    if not _there(path) and _there(beside := folder.parent / path):
        path = beside
    if not _there(path):
        if given != path.stem and path.parent.is_dir():
            near = nearest(path.name, [file.name for file in path.parent.glob("*.y*ml")])
            raise _wrong(origin, "recipes", f"no file {given!r}{near}; looked for {os.path.abspath(path)}")
        known = sorted(file.stem for file in folder.glob("*.yaml"))
        hint = nearest(given, known)
        raise _wrong(origin, "recipes", f"no recipe {given!r}{hint}; known: {', '.join(known)}, or a path to a .yaml")
    return path


def _there(path: Path) -> bool:
    """True for a file, and for what is none but may have been meant: reading it says what is wrong."""
    try:
        return os.path.lexists(path)
    except ValueError:  # a NUL in the name
        return False


def _wrong(origin: str | Origin, key: str, problem: str) -> ConfigError:
    return ConfigError(f"{place(origin, key.split('.'))}: {key}: {problem}")


def _origin(path: Path, origin: str | Origin, keys: Sequence[str], overridden: bool) -> str:
    """The recipe's file, and where the run overrides these keys of it."""
    return f"{path} with {place(origin, keys)}" if overridden else str(path)


def _fold(name: str, layers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A stage's section, later layers over earlier ones.

    Where a layer names another method, the parameters of the one before go.
    """
    spec, merged = BY_NAME[name], dict[str, Any]()
    for layer in layers:
        if spec.method_key:
            current = merged.get(spec.method_key, spec.default)
            if spec.method_key in layer and layer[spec.method_key] != current:
                merged = {k: v for k, v in merged.items() if k in spec.model.model_fields}
        merged |= layer
    return merged


def _rounds(layers: Sequence[Mapping[str, Any]], where: str) -> tuple[Stage[Rounds], dict[int, Stage[Rounds]]]:
    """The rounds section of round 1, and those that hold from later rounds on."""
    plain = [{k: v for k, v in layer.items() if k != "from_round"} for layer in layers]
    changes = [
        validate(Rounds, {"from_round": layer.get("from_round") or {}}, where, "rounds").from_round for layer in layers
    ]
    starts = sorted({start for change in changes for start in change})
    folded = {}
    for round in (1, *starts):
        steps: list[Mapping[str, Any]] = []
        for layer, change in zip(plain, changes, strict=True):
            steps += [layer, *(change[start] for start in sorted(change) if start <= round)]
        folded[round] = _fold("rounds", steps)
    students = [str(section.get("student", BY_NAME["rounds"].default)) for section in folded.values()]
    stages = {}
    for round, section in folded.items():
        prefix = "rounds" if round == 1 else f"rounds.from_round.{round}"
        stages[round] = Stage.of("rounds", section, where, prefix=prefix, others=students)
    return stages.pop(1), stages

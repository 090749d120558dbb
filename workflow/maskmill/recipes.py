"""Recipes resolved: defaults < recipe file < sections of config.yaml, validated before any job starts.

`load` turns the dictionary that Snakemake read into a `Run`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import yaml
from pydantic import BaseModel, ConfigDict, Field

from maskmill import registry
from maskmill.config import (
    METHOD_KEY,
    Adapt,
    Cluster,
    Config,
    Cut,
    FeatureSet,
    Foreground,
    Model,
    Paint,
    Reduce,
    Regions,
    Rounds,
    check_name,
    validate,
)
from maskmill.errors import ConfigError, nearest
from maskmill.recipe_checks import CODES, check

SHIPPED = (Path(__file__).parent / "shipped").resolve()  # a link to recipes/ in a checkout, a folder where installed
RECIPE_STAGES = ("adapt", "cut", "regions", "reduce", "foreground", "cluster", "paint", "rounds")
OPTIONAL_STAGES = ("adapt", "cut", "foreground")  # only in recipes that have the section
STAGE_MODEL: dict[str, type[Model]] = {
    "adapt": Adapt, "cut": Cut, "regions": Regions, "reduce": Reduce, "foreground": Foreground, "cluster": Cluster,
    "paint": Paint, "rounds": Rounds,
}  # fmt: skip
STAGE_DEFAULT = {
    "regions": "mean", "reduce": "none", "foreground": "attention", "cluster": "kmeans", "rounds": "token_head",
}  # fmt: skip


class Stage(BaseModel):
    """A stage of a resolved recipe: its shared settings, its method's name and its method's parameters."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)
    name: str
    settings: Any
    method: str | None = None
    params: Any = None

    def as_dict(self) -> dict[str, Any]:
        """The flat section, as in YAML; what the stage's rule puts into `params`."""
        body = self.settings.model_dump(mode="json")
        if self.method is not None:
            body |= {METHOD_KEY[self.name]: self.method} | self.params.model_dump(mode="json")
        return body


class Recipe(BaseModel):
    """A resolved recipe."""

    model_config = ConfigDict(frozen=True)
    name: str
    description: str
    features: dict[str, FeatureSet]
    adapt: Stage | None = None
    cut: Stage | None
    regions: Stage
    reduce: Stage
    foreground: Stage | None = None
    cluster: Stage
    paint: Stage
    rounds: Stage
    later: dict[int, Stage] = Field(default_factory=dict)  # the rounds section from that round on

    def stage(self, name: str) -> Stage:
        """The stage section by name; a recipe without cut has none."""
        value = getattr(self, name)
        if value is None:
            raise ConfigError(f"recipe {self.name}: has no {name} section")
        return value

    def behind(self, name: str) -> FeatureSet:
        """The feature set of a name; behind codes lies the one that the head sees, which has the same grid."""
        return self.features[self.stage("adapt").settings.features if name == CODES else name]

    @property
    def code_length(self) -> int:
        """Length of a code of the stage adapt."""
        stage = self.stage("adapt")
        module = registry.load("adapt", str(stage.method))
        return int(module.code_length(stage.params, int(self.cluster.params.clusters or 0)))

    @property
    def neighbours(self) -> bool:
        """True when the head asks for the images most like each image."""
        return bool(getattr(registry.load("adapt", str(self.stage("adapt").method)), "NEIGHBOURS", False))

    @property
    def unfrozen(self) -> bool:
        """True when the head trains its backbone and sees photos instead of stored tokens."""
        return self.adapt is not None and bool(getattr(self.adapt.params, "unfreeze", False))

    @property
    def global_codes(self) -> bool:
        """True with a head whose codes mean the same in every image, so that they can be clustered and probed."""
        name = None if self.adapt is None else str(self.adapt.method)
        return name is not None and not getattr(registry.load("adapt", name), "PER_IMAGE", False)

    @property
    def tokens(self) -> bool:
        """True when tokens are clustered directly, without cut and regions."""
        return self.regions.method == "token"

    @property
    def background(self) -> bool:
        """True when the masks of round 0 have a background."""
        return not self.tokens or self.foreground is not None

    @property
    def crops(self) -> bool:
        """True when segments are described by crops of the photos instead of stored tokens."""
        return bool(getattr(registry.load("regions", str(self.regions.method)), "PHOTOS", False))

    @property
    def round_count(self) -> int:
        return int(self.rounds.settings.count)

    def rounds_at(self, round: int) -> Stage:
        """The rounds section as it holds in round `round` >= 1 (`from_round`)."""
        begun = [start for start in self.later if start <= round]
        return self.later[max(begun)] if begun else self.rounds

    def photos(self, round: int) -> bool:
        """True when the student of a round sees photos, through an encoder, instead of stored features."""
        return bool(registry.load("rounds", str(self.rounds_at(round).method)).PHOTOS)

    def instances(self, round: int) -> bool:
        """True when the student of a round learns from instances and predicts instances."""
        if not 1 <= round <= self.round_count:
            return False
        return bool(getattr(registry.load("rounds", str(self.rounds_at(round).method)), "INSTANCES", False))

    def sections(self) -> dict[str, Any]:
        """Every stage's section as in YAML; what changes in later rounds stands under `from_round`."""
        found = {stage: self.stage(stage).as_dict() for stage in RECIPE_STAGES if getattr(self, stage) is not None}
        before, changes = found["rounds"], {}
        for start, stage in self.later.items():
            now = stage.as_dict()
            changes[start] = {key: value for key, value in now.items() if key not in before or before[key] != value}
            before = now
        return found | {"rounds": found["rounds"] | {"from_round": changes}} if changes else found


class Preset(Model):
    """Settings of a recipe that belong together, by name: `preset: small`. They lie over the recipe's own."""

    features: dict[str, dict[str, Any]] = Field(default_factory=dict)
    adapt: dict[str, Any] | None = None
    cut: dict[str, Any] | None = None
    regions: dict[str, Any] = Field(default_factory=dict)
    reduce: dict[str, Any] = Field(default_factory=dict)
    foreground: dict[str, Any] | None = None
    cluster: dict[str, Any] = Field(default_factory=dict)
    paint: dict[str, Any] = Field(default_factory=dict)
    rounds: dict[str, Any] | None = None


class RecipeFile(Preset):
    """The keys of a recipe file."""

    description: str = ""
    features: dict[str, dict[str, Any]]
    presets: dict[str, Preset] = Field(default_factory=dict)


class Run(BaseModel):
    """A whole run, resolved and validated."""

    model_config = ConfigDict(frozen=True)
    config: Config
    recipes: dict[str, Recipe]

    @property
    def feature_sets(self) -> dict[str, FeatureSet]:
        """Every feature set of the run by its slug; recipes that ask for the same share it."""
        return {fs.slug: fs for recipe in self.recipes.values() for fs in recipe.features.values()}

    @property
    def temporary(self) -> set[str]:
        """Slugs of the feature sets that nobody wants to keep: every recipe that has one says `keep: false`."""
        sets = [fs for recipe in self.recipes.values() for fs in recipe.features.values()]
        return {fs.slug for fs in sets} - {fs.slug for fs in sets if fs.keep}


def load(config: Mapping[str, Any], recipe_folder: str | Path, origin: str = "config.yaml") -> Run:
    """Validate a configuration and resolve its recipes.

    Raises:
        ConfigError: one line with origin, key, value, and the nearest known key or the allowed range.
    """
    checked = validate(Config, config, origin)
    files = {given: _read(given, Path(recipe_folder), origin) for given in checked.recipes}
    _check_names(checked, [file for _, file in files.values()], Path(recipe_folder), origin)
    recipes = {}
    for given in checked.recipes:
        recipe = _resolve(*files[given], checked, origin)
        if recipe.name in recipes:
            raise ConfigError(f"{origin}: recipes: {recipe.name!r} is given twice; keep one")
        recipes[recipe.name] = recipe
    if not recipes:
        raise ConfigError(f"{origin}: recipes: empty; name at least one, for example recipes: [kmeans]")
    return Run(config=checked, recipes=recipes)


def _read(given: str, folder: Path, origin: str) -> tuple[Path, RecipeFile]:
    """A recipe file by name or path."""
    path = _recipe_path(given, folder, origin)
    check_name(path.stem, f"{origin}: recipes: {path}")
    try:
        body = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    file = validate(RecipeFile, body, str(path))
    for name in file.features:
        check_name(name, f"{path}: features")
    return path, file


def _check_names(config: Config, files: Sequence[RecipeFile], folder: Path, origin: str) -> None:
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
            raise ConfigError(
                f"{origin}: preset: no recipe has {preset!r}{nearest(preset, known)}; known: {', '.join(known)}"
            )
    for name in config.features.keys() - {"keep"}:
        sets = {name for file in files for part in (file, *file.presets.values()) for name in part.features}
        if name not in sets:
            raise ConfigError(f"{origin}: features.{name}: no recipe of this run has a feature set of this name")


def _resolve(path: Path, file: RecipeFile, config: Config, origin: str) -> Recipe:
    """One recipe: its file, the presets of the run that it has, the run's overrides, in this order; validated."""
    parts: list[Preset] = [file, *(file.presets[name] for name in config.preset if name in file.presets)]
    features = {}
    everywhere = {"keep": config.features["keep"]} if "keep" in config.features else {}
    for name in dict.fromkeys(name for part in parts for name in part.features):
        merged: dict[str, Any] = {}
        for section in (*(part.features.get(name, {}) for part in parts), everywhere, config.features.get(name, {})):
            merged |= cast("dict[str, Any]", section)
        where = _origin(path, origin, name in config.features)
        features[name] = validate(FeatureSet, merged, where, f"features.{name}")
    stages: dict[str, Any] = {}
    for stage in RECIPE_STAGES:
        given = [getattr(part, stage) for part in parts]
        override = getattr(config, stage)
        where = _origin(path, origin, bool(override))
        if all(section is None for section in given):  # the run's overrides give no cut or rounds to a recipe without
            stages[stage] = None if stage in OPTIONAL_STAGES else _stage(stage, {}, str(path))
            continue
        layers = [*(section for section in given if section is not None), override]
        if stage == "rounds":
            stages["rounds"], stages["later"] = _rounds(layers, where)
        else:
            stages[stage] = _stage(stage, _fold(stage, layers), where)
    recipe = Recipe(name=path.stem, description=file.description, features=features, **stages)
    check(recipe, path)
    return recipe


def _recipe_path(given: str, folder: Path, origin: str) -> Path:
    """A recipe of the folder by name; or a file by path, from the working directory or from where the workflow lies."""
    path = Path(given) if given.endswith((".yaml", ".yml")) else folder / f"{given}.yaml"
    if not path.is_file() and (beside := folder.parent / path).is_file():
        path = beside
    if not path.is_file():
        known = sorted(file.stem for file in folder.glob("*.yaml"))
        hint = nearest(given, known)
        raise ConfigError(
            f"{origin}: recipes: no recipe {given!r}{hint}; known: {', '.join(known)}, or a path to a .yaml"
        )
    return path


def _origin(path: Path, origin: str, overridden: bool) -> str:
    return f"{path} with {origin}" if overridden else str(path)


def _fold(name: str, layers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A stage's section, later layers over earlier ones.

    Where a layer names another method, the parameters of the one before go.
    """
    key, merged = METHOD_KEY.get(name), dict[str, Any]()
    for layer in layers:
        if key:
            current = merged.get(key, STAGE_DEFAULT.get(name))
            if layer.get(key, current) != current:
                merged = {k: v for k, v in merged.items() if k in STAGE_MODEL[name].model_fields}
        merged |= layer
    return merged


def _rounds(layers: Sequence[Mapping[str, Any]], where: str) -> tuple[Stage, dict[int, Stage]]:
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
    students = [str(section.get("student", STAGE_DEFAULT["rounds"])) for section in folded.values()]
    stages = {}
    for round, section in folded.items():
        prefix = "rounds" if round == 1 else f"rounds.from_round.{round}"
        stages[round] = _stage("rounds", section, where, prefix, others=students)
    return stages.pop(1), stages


def _stage(
    name: str, section: Mapping[str, Any], where: str, prefix: str | None = None, others: Sequence[str] = ()
) -> Stage:
    """A stage from its merged section. Parameters that only one of the `others` methods knows are left to those."""
    prefix, key, settings_model = prefix or name, METHOD_KEY.get(name), STAGE_MODEL[name]
    if key is None:
        return Stage(name=name, settings=validate(settings_model, section, where, prefix))
    own = dict(section)
    method = own.pop(key, STAGE_DEFAULT.get(name))
    if not isinstance(method, str):
        known = ", ".join(registry.available(name))
        raise ConfigError(f"{where}: {prefix}.{key}: {method!r} is not a method name; known: {known}")
    try:
        params_model = registry.load(name, method).Params
        elsewhere = {field for other in others for field in registry.load(name, other).Params.model_fields}
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    common = {k: own.pop(k) for k in list(own) if k in settings_model.model_fields}
    own = {k: v for k, v in own.items() if k in params_model.model_fields or k not in elsewhere}
    known_keys = [key, *settings_model.model_fields, *params_model.model_fields]
    settings = validate(settings_model, common, where, prefix, known_keys)
    params = validate(params_model, own, where, prefix, known_keys)
    return Stage(name=name, settings=settings, method=method, params=params)

"""A resolved recipe and a resolved run: what every other part of maskmill asks about the configuration."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from maskmill.errors import ConfigError
from maskmill.recipe import registry
from maskmill.recipe.sections import METHOD_KEY, Config, FeatureSet

RECIPE_STAGES = ("adapt", "cut", "regions", "reduce", "foreground", "cluster", "paint", "rounds")
CODES = "codes"  # the feature set that the stage adapt makes


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

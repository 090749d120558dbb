"""A resolved recipe and a resolved run: what every other part of maskmill asks about the configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from maskmill.errors import ConfigError
from maskmill.recipe import registry
from maskmill.recipe.base import Model, validate
from maskmill.recipe.feature_set import FeatureSet
from maskmill.recipe.sections import (
    Adapt,
    Cluster,
    Config,
    Cut,
    Foreground,
    Paint,
    Pretrain,
    Reduce,
    Regions,
    Rounds,
    Taxonomy,
    Tracks,
)
from maskmill.recipe.stages import BY_NAME, RECIPE_STAGES

CODES = "codes"  # the feature set that the stage adapt makes
UNTOLD = 8  # classes that a head learns where the number of clusters is not said
CANDIDATES = ("prototypes", "kmeans", "online")  # ways to cluster the same tokens, as files are named
S = TypeVar("S", bound=Model, covariant=True)


@dataclass(frozen=True)
class Stage(Generic[S]):
    """A stage's section, resolved: the settings that all methods share, the method, and the method's parameters.

    Attributes:
        params: the method's own `Params`, a `Model` that only its file knows; None for a stage without methods.
    """

    name: str
    settings: S
    method: str | None = None
    params: Any = None

    @classmethod
    def of(
        cls,
        name: str,
        section: Mapping[str, Any],
        where: str = "--params",
        *,
        prefix: str | None = None,
        others: Sequence[str] = (),
    ) -> Stage[Any]:
        """The stage of a flat section, as it stands in YAML or in a rule's `params`.

        Args:
            where: the file or option that the section came from, for messages. prefix: the section's key there.
            others: methods that the same section may also serve (`from_round`): parameters that only they know are
                left to them.

        Raises:
            ConfigError: an unknown key or method, or a value out of range; with the nearest known name.
        """
        spec, prefix, own = BY_NAME[name], prefix or name, dict(section)
        if spec.method_key is None:
            return Stage(name, validate(spec.model, own, where, prefix))
        method = own.pop(spec.method_key, spec.default)
        if not isinstance(method, str):
            known = ", ".join(registry.available(name))
            raise ConfigError(f"{where}: {prefix}.{spec.method_key}: {method!r} is not a method name; known: {known}")
        try:
            params_model = registry.load(name, method).Params
            elsewhere = {key for other in others for key in registry.load(name, other).Params.model_fields}
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None
        shared = {key: own.pop(key) for key in list(own) if key in spec.model.model_fields}
        own = {key: v for key, v in own.items() if key in params_model.model_fields or key not in elsewhere}
        known_keys = [spec.method_key, *spec.model.model_fields, *params_model.model_fields]
        settings = validate(spec.model, shared, where, prefix, known_keys)
        return Stage(name, settings, method, validate(params_model, own, where, prefix, known_keys))

    @property
    def module(self) -> Any:
        """The module of the method; the stage's package says what it must bring."""
        return registry.load(self.name, str(self.method))

    def as_dict(self) -> dict[str, Any]:
        """The flat section, as in YAML; what the stage's rule puts into `params`."""
        body = self.settings.model_dump(mode="json")
        if self.method is not None:
            body |= {str(BY_NAME[self.name].method_key): self.method} | self.params.model_dump(mode="json")
        return body


def chosen_from(readout: str) -> tuple[str, ...]:
    """The candidates that `cluster.readout` of a head's prototypes leaves to choose from."""
    return ("prototypes", "kmeans") if readout == "auto" else (readout,)


@dataclass(frozen=True)
class Recipe:
    """A resolved recipe.

    Attributes:
        features: its feature sets by name. stages: its sections by stage; optional stages only where it has them.
        later: round -> the rounds section from that round on.
    """

    name: str
    description: str
    features: Mapping[str, FeatureSet]
    stages: Mapping[str, Stage[Any]]
    later: Mapping[int, Stage[Rounds]] = field(default_factory=dict)

    @property
    def pretrain(self) -> Stage[Pretrain] | None:
        return self.stages.get("pretrain")

    @property
    def trained_sets(self) -> dict[str, FeatureSet]:
        """The feature sets whose backbone the stage pretrain trains, by name."""
        return {name: chosen for name, chosen in self.features.items() if chosen.pretrain is not None}

    @property
    def adapt(self) -> Stage[Adapt] | None:
        return self.stages.get("adapt")

    @property
    def cut(self) -> Stage[Cut] | None:
        return self.stages.get("cut")

    @property
    def regions(self) -> Stage[Regions]:
        return self.stages["regions"]

    @property
    def reduce(self) -> Stage[Reduce]:
        return self.stages["reduce"]

    @property
    def foreground(self) -> Stage[Foreground] | None:
        return self.stages.get("foreground")

    @property
    def cluster(self) -> Stage[Cluster]:
        return self.stages["cluster"]

    @property
    def taxonomy(self) -> Stage[Taxonomy]:
        return self.stages["taxonomy"]

    @property
    def named(self) -> bool:
        """True when clusters become classes with names before they are painted."""
        return bool(self.taxonomy.module.TRAITS.names)

    @property
    def paint(self) -> Stage[Paint]:
        return self.stages["paint"]

    @property
    def rounds(self) -> Stage[Rounds]:
        return self.stages["rounds"]

    @property
    def tracks(self) -> Stage[Tracks] | None:
        return self.stages.get("tracks")

    @property
    def clustered_set(self) -> str:
        """The feature set whose vectors are clustered; of codes the one that their head sees."""
        name = self.regions.settings.features
        return str(self.stage("adapt").settings.features) if name == CODES else str(name)

    @property
    def masks_from(self) -> set[str]:
        """The feature sets that the masks are made of."""
        names = {self.clustered_set}
        if self.paint.settings.stuff is not None:
            names.add(self.paint.settings.stuff.features)
        for stage in ("adapt", "cut", "foreground"):
            if stage in self.stages:
                names.add(str(self.stages[stage].settings.features))
        if self.cut is not None and self.cut.settings.colour is not None:
            names.add(self.cut.settings.colour)
        for round in range(1, self.round_count + 1):
            names |= set(self.student_sets(round))
        return names

    def stage(self, name: str) -> Stage[Any]:
        """The section of a stage; a ConfigError where the recipe has none."""
        if name not in self.stages:
            raise ConfigError(f"recipe {self.name}: has no {name} section")
        return self.stages[name]

    def behind(self, name: str) -> FeatureSet:
        """The feature set of a name; behind codes lies the one that the head sees, which has the same grid."""
        return self.features[self.stage("adapt").settings.features if name == CODES else name]

    @property
    def code_length(self) -> int:
        """Length of a code of the stage adapt."""
        stage, clusters = self.stage("adapt"), self.cluster.params.clusters
        if not isinstance(clusters, int):  # chosen from the codes, which there have to be before
            clusters = UNTOLD
        return int(stage.module.code_length(stage.params, clusters))

    @property
    def neighbours(self) -> bool:
        """True when the head asks for the images most like each image."""
        return bool(self.stage("adapt").module.TRAITS.neighbours)

    @property
    def unfrozen(self) -> bool:
        """True when the head trains its backbone and sees photos instead of stored tokens."""
        return self.adapt is not None and self.adapt.module.TRAITS.trains_backbone and bool(self.adapt.params.unfreeze)

    @property
    def learns_from_photos(self) -> bool:
        """True when the training of the head sees photos, with a backbone that learns too or that stays as it is."""
        return self.unfrozen or (self.adapt is not None and bool(self.adapt.module.TRAITS.photos))

    @property
    def global_codes(self) -> bool:
        """True with a head whose codes mean the same in every image, so that they can be clustered and probed."""
        return self.adapt is not None and not self.adapt.module.TRAITS.per_image

    @property
    def candidates(self) -> dict[str, dict[str, Any]]:
        """Ways to cluster the tokens of the recipe into as many classes: name -> section `cluster`.

        A head's own prototypes and k-means of its codes; k-means of tokens and prototypes that are trained on them as
        a head trains its own. Where there is no choice to compare, none.
        """
        own = self.cluster
        if not self.tokens:
            return {}
        body, settings = own.as_dict(), {"max_fit_points": own.settings.max_fit_points}
        if own.method == "prototypes":
            k_means = {"method": "kmeans", "clusters": own.params.clusters, "restarts": own.params.restarts}
            return {"prototypes": body | {"readout": "prototypes"}, "kmeans": settings | k_means}
        if own.method == "kmeans" and own.params.spherical:
            number = {key: body[key] for key in ("clusters", "range") if key in body}
            return {"kmeans": body, "online": settings | {"method": "online"} | number}
        return {}

    @property
    def chosen_from(self) -> tuple[str, ...]:
        """Names of the candidates among which the clustering of the recipe is chosen; none where it is one method's."""
        if self.cluster.method != "prototypes" or not self.candidates:
            return ()
        return chosen_from(self.cluster.params.readout)

    @property
    def tokens(self) -> bool:
        """True when tokens are clustered directly, without cut and regions."""
        return self.regions.method == "token"

    @property
    def background(self) -> bool:
        """True when the masks of round 0 have a background."""
        return not self.tokens or self.foreground is not None or self._unlinked

    @property
    def _unlinked(self) -> bool:
        """True when the clustering itself finds a background: parts that communities do not link to any other."""
        return self.cluster.method == "communities" and self.cluster.params.unlinked == "background"

    @property
    def regions_an_image(self) -> int:
        """The most regions that the recipe's cut finds in an image."""
        cut = self.stage("cut")
        return int(cut.module.regions_per_image(cut.params, 0 if self.adapt is None else self.code_length))

    @property
    def crops(self) -> bool:
        """True when segments are described by crops of the photos instead of stored tokens."""
        return bool(self.regions.module.TRAITS.photos)

    @property
    def round_count(self) -> int:
        return int(self.rounds.settings.count)

    def rounds_at(self, round: int) -> Stage[Rounds]:
        """The rounds section as it holds in round `round` >= 1 (`from_round`)."""
        begun = [start for start in self.later if start <= round]
        return self.later[max(begun)] if begun else self.rounds

    def photos(self, round: int) -> bool:
        """True when the student of a round sees photos, through an encoder, instead of stored features."""
        return bool(self.rounds_at(round).module.TRAITS.photos)

    def student_sets(self, round: int) -> dict[str, FeatureSet]:
        """The feature sets that the student of a round sees, by name; none where it sees photos."""
        names = () if self.photos(round) else self.rounds_at(round).settings.features
        return {name: self.features[name] for name in names}

    def instances(self, round: int) -> bool:
        """True when the student of a round learns from instances and predicts instances."""
        if not 1 <= round <= self.round_count:
            return False
        return bool(self.rounds_at(round).module.TRAITS.instances)

    def painted_again(self, round: int) -> bool:
        """True when the masks of a round are painted from instances alone, which its student has predicted before."""
        return self.instances(round) and not self.rounds_at(round).module.TRAITS.semantic

    def sections(self) -> dict[str, Any]:
        """Every stage's section as in YAML; what changes in later rounds stands under `from_round`."""
        found = {stage: self.stages[stage].as_dict() for stage in RECIPE_STAGES if stage in self.stages}
        before, changes = found["rounds"], {}
        for start, stage in self.later.items():
            now = stage.as_dict()
            changes[start] = {key: value for key, value in now.items() if key not in before or before[key] != value}
            before = now
        return found | {"rounds": found["rounds"] | {"from_round": changes}} if changes else found


@dataclass(frozen=True)
class Run:
    """A whole run, resolved and validated."""

    config: Config
    recipes: Mapping[str, Recipe]

    @property
    def feature_sets(self) -> dict[str, FeatureSet]:
        """Every feature set of the run by its slug; recipes that ask for the same share it."""
        return {fs.slug: fs for recipe in self.recipes.values() for fs in recipe.features.values()}

    def trained(self, slug: str) -> tuple[Recipe, FeatureSet]:
        """A recipe with a feature set whose backbone is trained under this name, and the feature set.

        Of several it is the one whose name is the first by alphabet, whatever the order of the recipes.
        """
        found = {
            chosen.slug: (recipe, chosen)
            for recipe in reversed(list(self.recipes.values()))
            for chosen in recipe.trained_sets.values()
            if chosen.weights_slug == slug
        }
        if not found:
            raise ConfigError(f"pretrain: no recipe trains {slug!r}")
        return found[min(found)]

    @property
    def temporary(self) -> set[str]:
        """Slugs of the feature sets that nobody wants to keep: every recipe that has one says `keep: false`."""
        sets = [fs for recipe in self.recipes.values() for fs in recipe.features.values()]
        return {fs.slug for fs in sets} - {fs.slug for fs in sets if fs.keep}

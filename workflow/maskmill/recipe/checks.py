"""What the stages of a recipe need of each other: feature sets, a cut where there are segments, keys, photos."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from maskmill.errors import ConfigError, nearest
from maskmill.recipe import backbones
from maskmill.recipe.model import CODES, Recipe, Stage

MOST = 65534  # classes of a 16-bit mask beside background and ignore


def check(recipe: Recipe, path: Path) -> None:
    """Raises ConfigError where stages of the recipe do not fit each other; `path` is its file, for the message."""
    _check_sets(recipe, path)
    _check_pretrain(recipe, path)
    if recipe.round_count and recipe.rounds.settings.images == "surest" and recipe.tokens:
        raise ConfigError(f"{path}: rounds.images: surest ranks regions, but pool: token has none; use images: all")
    _check_instances(recipe, path)
    _check_labels_kept(recipe, path)
    _check_abstain(recipe, path)
    _check_stuff(recipe, path)
    _check_adapt(recipe, path)
    if recipe.cut is None and not recipe.tokens:
        raise ConfigError(f"{path}: regions.pool: {recipe.regions.method!r} needs a cut section (or use pool: token)")
    if recipe.cut is not None:
        _check_needs(recipe, path)
    if recipe.foreground is not None:
        _check_foreground(recipe, path)
    _check_photos(recipe, path)
    _check_fit(recipe, path)
    segments_learnt = recipe.pretrain is not None and recipe.pretrain.module.TRAITS.segments
    if recipe.cut is not None and recipe.tokens and not segments_learnt:
        raise ConfigError(f"{path}: cut: pool: token clusters tokens without a cut; drop the section or use pool: mean")


def _check_pretrain(recipe: Recipe, path: Path) -> None:
    """A method that reads segments has a cut, whose features are none that it trains."""
    stage = recipe.pretrain
    if stage is None or not stage.module.TRAITS.segments:
        return
    cut = recipe.cut
    if cut is None:
        raise ConfigError(
            f"{path}: pretrain.method: {stage.method} learns from segments; add a cut section on another feature set"
        )
    if cut.settings.features == CODES or cut.settings.features in recipe.trained_sets:
        raise ConfigError(
            f"{path}: cut.features: {cut.settings.features!r} is made with the backbone that pretrain.method "
            f"{stage.method} trains from this cut; name a feature set of another backbone"
        )


def _check_labels_kept(recipe: Recipe, path: Path) -> None:
    """rounds.keep_labels asks for labels, and for students that learn from masks."""
    for round in range(1, recipe.round_count + 1):
        if not recipe.rounds_at(round).settings.keep_labels:
            continue
        if not recipe.taxonomy.module.TRAITS.labels:
            raise ConfigError(
                f"{path}: rounds.keep_labels: there are no labels to keep; set taxonomy: {{source: examples, labels: "
                "folder}, or leave it out"
            )
        if recipe.instances(round):
            raise ConfigError(f"{path}: rounds.keep_labels: student {recipe.rounds_at(round).method!r} learns from "
                              "instances, which the labels do not give; leave it out")  # fmt: skip


def _check_abstain(recipe: Recipe, path: Path) -> None:
    """Segments have a distance to their centre, by which `keep_closest` leaves some out."""
    wanted = recipe.paint.settings.abstain
    if wanted and not recipe.tokens:
        raise ConfigError(
            f"{path}: paint.abstain: {wanted}: is for recipes of tokens (pool: token); here paint.keep_closest leaves "
            "regions out"
        )
    if recipe.paint.settings.abstain_by == "confidence" and not (wanted and recipe.taxonomy.module.TRAITS.labels):
        raise ConfigError(
            f"{path}: paint.abstain_by: confidence: needs abstain, and labels that make the classes; set abstain and "
            "taxonomy: {source: examples, labels: folder}, or use abstain_by: margin"
        )


def _check_stuff(recipe: Recipe, path: Path) -> None:
    """Stuff fills what segments leave, as classes without names; a panoptic student learns it."""
    wanted = recipe.paint.settings.stuff is not None
    if wanted and recipe.tokens:
        raise ConfigError(f"{path}: paint.stuff: fills what segments leave, but pool: token has none; leave it out")
    if wanted and recipe.named:
        raise ConfigError(f"{path}: paint.stuff: its classes have no names, but taxonomy.source: "
                          f"{recipe.taxonomy.method} names all of them; leave one of the two out")  # fmt: skip
    _check_room(recipe, path)
    for round in range(1, recipe.round_count + 1):
        stage = recipe.rounds_at(round)
        if stage.module.TRAITS.semantic and not wanted:
            raise ConfigError(f"{path}: rounds.student: {stage.method} learns things and stuff; add "
                              "paint: {stuff: {features: NAME, clusters: 27}}, or use student: instance")  # fmt: skip
        if wanted and stage.settings.match != "none":
            raise ConfigError(f"{path}: rounds.match: {stage.settings.match}: the classes of student {stage.method} "
                              "keep their ids, of which the first are things; leave it out")  # fmt: skip


def _check_room(recipe: Recipe, path: Path) -> None:
    """Masks of 16 bits hold the clusters of segments and the classes of stuff together."""
    (clusters, key), stuff = _most(recipe), recipe.paint.settings.stuff
    if stuff is not None and clusters is not None and clusters + stuff.clusters > MOST:
        raise ConfigError(f"{path}: paint.stuff.clusters: {stuff.clusters}, and {key}: {clusters}, but a mask has at "
                          f"most {MOST} classes; lower one of the two")  # fmt: skip


def _most(recipe: Recipe) -> tuple[int | None, str]:
    """The most clusters that a recipe makes, None where the data say it, and the key that says so."""
    params = recipe.cluster.params
    auto = recipe.cluster.module.TRAITS.counted and params.auto
    return (params.range[1], "cluster.range") if auto else (params.clusters, "cluster.clusters")


def _check_sets(recipe: Recipe, path: Path) -> None:
    """Every feature set that a stage names exists."""
    wanted = {"regions": [recipe.regions.settings.features]}
    if recipe.adapt is not None:
        wanted["adapt"] = [recipe.adapt.settings.features]
    if recipe.cut is not None:
        wanted["cut"] = [recipe.cut.settings.features]
    if recipe.foreground is not None:
        wanted["foreground"] = [recipe.foreground.settings.features]
    stuff = recipe.paint.settings.stuff
    if stuff is not None:
        wanted["paint.stuff"] = [stuff.features]
    if recipe.tracks is not None and recipe.tracks.settings.features is not None:
        wanted["tracks"] = [recipe.tracks.settings.features]
    wanted = {f"{stage}.features": names for stage, names in wanted.items()}
    for round in (1, *recipe.later) if recipe.round_count else ():
        stage = recipe.rounds_at(round)
        if recipe.photos(round):
            wanted["rounds.encoder"] = [*wanted.get("rounds.encoder", ()), stage.params.encoder]
        else:
            wanted["rounds.features"] = [*wanted.get("rounds.features", ()), *stage.settings.features]
    for key, names in wanted.items():
        for name in names:
            if name == CODES and recipe.adapt is not None and key in ("regions.features", "cut.features"):
                continue
            if name not in recipe.features:
                known = f"{nearest(name, recipe.features)}; known: {', '.join(recipe.features)}"
                if name == CODES:  # what the stage adapt makes
                    known = f"; codes come from a head: add an adapt section, or name {', '.join(recipe.features)}"
                raise ConfigError(f"{path}: {key}: no feature set {name!r}{known}")


def _check_adapt(recipe: Recipe, path: Path) -> None:
    """Codes are tokens without a photo behind them, and prototypes come from a head."""
    if CODES in recipe.features:
        raise ConfigError(f"{path}: features.{CODES}: the name of what the stage adapt makes; take another name")
    if recipe.cluster.method == "prototypes":
        if recipe.adapt is None:
            raise ConfigError(f"{path}: cluster.method: prototypes are those of a head; add an adapt section")
        if not recipe.tokens or recipe.regions.settings.features != CODES or recipe.reduce.method != "none":
            advice = f"set regions: {{features: {CODES}, pool: token}} and reduce.method: none"
            raise ConfigError(f"{path}: cluster.method: prototypes lie among the codes; {advice}")
    _check_masks(recipe, path)
    if recipe.adapt is not None and "cls_query" in recipe.adapt.module.TRAITS.beside:
        _check_keys(recipe, recipe.adapt, path)
    if recipe.learns_from_photos:
        seen, facets = recipe.behind(CODES), recipe.stage("adapt").module.TRAITS.facets
        if seen.facet not in facets or not backbones.of(seen.backbone).network:
            what = "trains a network" if recipe.unfrozen else "sees photos"
            raise ConfigError(f"{path}: {why_photos(recipe)} {what} through facet: {' or '.join(facets)}, found "
                              f"{seen.facet} of {seen.backbone}; name another feature set")  # fmt: skip
        if facets == ("key",):
            _check_cls_token(recipe, recipe.stage("adapt"), path)
    if recipe.crops and recipe.regions.settings.features == CODES:
        raise ConfigError(f"{path}: regions.pool: {recipe.regions.method} looks at crops through a backbone, and "
                          f"{CODES} has none; name another feature set, or use pool: mean")  # fmt: skip


def why_photos(recipe: Recipe) -> str:
    """The key of a head that learns from photos, for messages."""
    return "adapt.unfreeze: true" if recipe.unfrozen else f"adapt.method: {recipe.stage('adapt').method}"


def _check_masks(recipe: Recipe, path: Path) -> None:
    """Codes that are masks of one image are cut and not clustered; the cut that reads them gets them."""
    cut, adapt = recipe.cut, recipe.adapt
    if cut is not None and cut.module.TRAITS.reads_codes and cut.settings.features != CODES:
        raise ConfigError(
            f"{path}: cut.features: {cut.settings.features!r}, but method {cut.method} reads the masks of a head; add "
            f"adapt: {{method: acseg}}, dinosaur or found, and set features: {CODES}"
        )
    if adapt is not None and not recipe.global_codes and recipe.regions.settings.features == CODES:
        raise ConfigError(
            f"{path}: regions.features: the {CODES} of {adapt.method} are masks, each within its image; cut them "
            f"(cut: {{features: {CODES}, method: argmax}}) and name another feature set here"
        )


def _check_instances(recipe: Recipe, path: Path) -> None:
    """A student of instances learns from the regions of a cut, or from the instances of the round before."""
    for round in range(1, recipe.round_count + 1):
        if not recipe.instances(round):
            continue
        student = recipe.rounds_at(round).method
        if recipe.tokens:
            raise ConfigError(f"{path}: rounds.student: {student} learns from regions, but pool: token has none; "
                              "give a cut section and pool: mean")  # fmt: skip
        if round > 1 and not recipe.instances(round - 1):
            before = recipe.rounds_at(round - 1).method
            raise ConfigError(f"{path}: rounds.student: {student} in round {round} follows {before}, which predicts "
                              f"no instances; let {student} come first")  # fmt: skip


def _check_photos(recipe: Recipe, path: Path) -> None:
    """Where photos are learnt from, and not stored tokens, a network would not see what the feature set promises."""
    learnt = {}
    if recipe.learns_from_photos:
        learnt[recipe.stage("adapt").settings.features] = why_photos(recipe)
    for round in range(1, recipe.round_count + 1):
        if recipe.photos(round):
            learnt[recipe.rounds_at(round).params.encoder] = f"rounds.student: {recipe.rounds_at(round).method}"
    for name, why in learnt.items():
        for key, value in recipe.features[name].care.items():
            raise ConfigError(
                f"{path}: features.{name}.{key}: {value}, but {why} learns from photos "
                f"as they are; drop {key}, or name another feature set"
            )


def _check_fit(recipe: Recipe, path: Path) -> None:
    """A clustering is fitted on more vectors than it has clusters."""
    limit, (clusters, key) = recipe.cluster.settings.max_fit_points, _most(recipe)
    if clusters is not None and clusters > limit:
        fitted = "may be" if key == "cluster.range" else "are"
        raise ConfigError(
            f"{path}: cluster.max_fit_points: {limit}, but {clusters} clusters {fitted} fitted; set it to "
            f"{100 * clusters} or more, or lower {key}"
        )


def _check_needs(recipe: Recipe, path: Path) -> None:
    """The cut's method gets what it needs (see maskmill.cut.Need), and nothing that it does not know."""
    cut = recipe.stage("cut")
    needs = cut.module.needs(cut.params)
    colour = cut.settings.colour
    known = [name for name, fs in recipe.features.items() if fs.colours]
    advice = f"known: {', '.join(known)}" if known else "add one: {backbone: colour, stride: ..., size: ...}"
    if cut.module.TRAITS.reads_colours and cut.settings.features not in known:
        raise ConfigError(
            f"{path}: cut.features: {cut.settings.features!r}, but method {cut.method} groups colours; name a feature "
            f"set of backbone colour, without concat; {advice}"
        )
    if colour is not None and not cut.module.TRAITS.colour:
        raise ConfigError(f"{path}: cut.colour: method {cut.method} does not look at colours; drop the key")
    if colour is not None and colour not in known:
        raise ConfigError(f"{path}: cut.colour: no feature set {colour!r} of backbone colour; {advice}")
    if "colour" in needs and colour is None:
        raise ConfigError(
            f"{path}: cut.colour: method {cut.method} with these parameters needs the name of a feature set of "
            "backbone colour"
        )
    if "cls_query" in needs:
        _check_keys(recipe, cut, path)


def _check_foreground(recipe: Recipe, path: Path) -> None:
    """Tokens are clustered, and the evidence can be had from the feature set."""
    stage = recipe.stage("foreground")
    if not recipe.tokens:
        raise ConfigError(
            f"{path}: foreground: regions.pool: {recipe.regions.method!r} has a background from its cut; "
            "drop the section, or use pool: token"
        )
    if stage.module.TRAITS.reads_query:
        _check_keys(recipe, stage, path)


def _check_keys(recipe: Recipe, stage: Stage, path: Path) -> None:
    """The feature set of a stage has keys, beside which the query of the cls token is stored."""
    name = stage.settings.features
    if name == CODES:
        raise ConfigError(f"{path}: {stage.name}.features: {CODES} have no keys; name a feature set with facet: key")
    if recipe.features[name].facet != "key":
        raise ConfigError(
            f"{path}: features.{name}.facet: {recipe.features[name].facet!r}, but {stage.name}.method {stage.method} "
            "needs facet: key of a ViT with a cls token"
        )
    _check_cls_token(recipe, stage, path)
    for key, value in recipe.features[name].care.items():
        raise ConfigError(
            f"{path}: features.{name}.{key}: {value}, but {stage.name}.method {stage.method} needs the query of the "
            f"cls token, which goes with the network's own keys of one image; drop {key}"
        )


def _check_cls_token(recipe: Recipe, stage: Stage, path: Path) -> None:
    """No backbone of the feature set of a stage is known to have none; timm's are asked later (`architectures`)."""
    name = stage.settings.features
    for part in recipe.features[name].parts:
        if backbones.of(part.backbone).cls_token is False:
            raise ConfigError(f"{path}: features.{name}.backbone: {without_cls_token(part.backbone, stage)}")


def without_cls_token(backbone: str, stage: Stage) -> str:
    """That a backbone is not what a stage needs, and what would be."""
    return (
        f"{backbone!r} has no cls token, but {stage.name}.method {stage.method} needs facet: key of a ViT with one, "
        "such as vit_small_patch8_224.dino"
    )


def asking_for_keys(recipe: Recipe) -> list[Stage]:
    """The stages of a recipe that read keys beside which there is a cls token; see `_check_keys`."""
    found: list[Stage[Any]] = []
    adapt, cut, foreground = recipe.adapt, recipe.cut, recipe.foreground
    if adapt is not None:
        traits = adapt.module.TRAITS
        if "cls_query" in traits.beside or (traits.photos and traits.facets == ("key",)):
            found.append(adapt)
    if cut is not None and "cls_query" in cut.module.needs(cut.params):
        found.append(cut)
    if foreground is not None and foreground.module.TRAITS.reads_query:
        found.append(foreground)
    return found

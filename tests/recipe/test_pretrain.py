"""The section pretrain and feature sets that name it: what is one training, and messages with a way out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from maskmill.errors import ConfigError
from maskmill.recipe.feature_set import FeatureSet
from maskmill.recipe.resolve import load

TRAINED = {"backbone": {"pretrain": "resnet18"}}
BODY: dict[str, Any] = {
    "pretrain": {"method": "dino", "start": "scratch"},
    "features": {"semantic": TRAINED},
    "regions": {"features": "semantic", "pool": "token"},
}


def resolved(tmp_path: Path, body: dict[str, Any], **config: Any) -> Any:
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(body))
    return load({"recipes": ["own"]} | config, tmp_path)


def test_a_feature_set_knows_how_its_backbone_is_trained(tmp_path: Path) -> None:
    recipe = resolved(tmp_path, BODY, pretrain={"steps": 7}).recipes["own"]
    chosen = recipe.features["semantic"]
    assert chosen.backbone == "resnet18"
    assert chosen.pretrain["method"] == "dino"
    assert chosen.pretrain["steps"] == 7
    assert "checkpoint_steps" not in chosen.pretrain
    assert FeatureSet.model_validate(chosen.model_dump(mode="json")) == chosen
    assert chosen.weights_slug.startswith("resnet18.dino-")
    assert chosen.origin_slug == "resnet18"


def test_what_changes_a_training_changes_its_name_and_nothing_else_does(tmp_path: Path) -> None:
    def slug(**pretrain: Any) -> str:
        return resolved(tmp_path, BODY, pretrain=pretrain).recipes["own"].features["semantic"].weights_slug

    assert slug() == slug(checkpoint_steps=1, cache_mib=5) == slug(accept="better")
    assert len({slug(), slug(seed=1), slug(steps=5), slug(images=9)}) == 4


def test_recipes_that_share_a_training_take_the_same_weights(tmp_path: Path) -> None:
    other = BODY | {"pretrain": BODY["pretrain"] | {"accept": "better"}}
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(other))
    with pytest.raises(ConfigError, match=r"recipe other: pretrain\.accept: better, but recipe own, which shares"):
        resolved(tmp_path, BODY, recipes=["own", "other"])
    run = resolved(tmp_path, BODY, recipes=["own", "other"], pretrain={"accept": "better"})
    assert len({each.features["semantic"].weights_slug for each in run.recipes.values()}) == 1


def test_another_cut_makes_another_backbone(tmp_path: Path) -> None:
    """Of a method that reads segments: recipes that differ in their cut share no training."""

    def slug(**changes: Any) -> str:
        sets = {"grouping": {"backbone": "vit_small_focus"}, "semantic": TRAINED, "other": {"backbone": "colour"}}
        body = {
            "pretrain": {"method": "maskcontrast"},
            "features": {name: own | changes.get(name, {}) for name, own in sets.items()},
            "cut": {"features": "grouping", "method": "maskcut"} | changes.get("cut", {}),
            "regions": {"features": "semantic", "pool": "mean"},
        }
        return resolved(tmp_path, body).recipes["own"].features["semantic"].weights_slug

    assert slug() == slug(other={"stride": 8}) == slug(semantic={"size": {"square": 128}})
    assert len({slug(), slug(cut={"tau": 0.3}), slug(grouping={"size": {"square": 224}})}) == 3


def test_a_section_of_the_run_makes_any_recipe_train(tmp_path: Path) -> None:
    body = {key: value for key, value in BODY.items() if key != "pretrain"}
    body["features"] = {"semantic": {"backbone": "resnet18"}}
    run = resolved(tmp_path, body, features={"semantic": TRAINED}, pretrain={"method": "dino"})
    assert run.recipes["own"].features["semantic"].pretrain["method"] == "dino"


def test_sets_that_are_not_trained_keep_their_names() -> None:
    plain = FeatureSet(backbone="resnet18")
    assert "pretrain" not in plain.model_dump()
    assert plain.weights_slug == plain.origin_slug == "resnet18"


@pytest.mark.parametrize(
    ("change", "config", "message"),
    [
        ({"pretrain": None}, {}, r"features\.semantic\.backbone: \{pretrain: \.\.\.\}, but there is no section"),
        ({"features": {"semantic": {"backbone": "resnet18"}}}, {}, r"pretrain: no feature set uses it; set features"),
        ({"features": {"semantic": {"backbone": {"train": "x"}}}}, {}, r"give a name, or \{pretrain: NAME\}"),
        ({"features": {"semantic": {"backbone": {"pretrain": "colour"}}}}, {}, r"colour has no weights"),
        ({"pretrain": {"method": "dinosaur"}}, {}, r"unknown method 'dinosaur'"),
        ({"pretrain": {"method": "dino", "batch_size": 48}}, {}, r"batch_size: 48 is no multiple of micro_batch: 32"),
        ({"pretrain": {"method": "dino", "scale": [40, 100]}}, {}, r"pretrain\.scale: give two shares from and to"),
        ({"pretrain": {"method": "dino", "local_scale": [0.5, 0.2]}}, {}, r"local_scale: give two shares from and to"),
        ({"pretrain": {"method": "dino", "stepps": 5}}, {}, r"pretrain\.stepps: unknown key.*steps"),
        (
            {"features": {"semantic": {"backbone": "resnet18", "pretrain": {"method": "dino"}}}},
            {},
            r"is set by backbone",
        ),
        (
            {"pretrain": None, "features": {"semantic": {"backbone": "resnet18"}}},
            {"pretrain": {"method": "dino"}},
            r"pretrain: no feature set of this run has backbone: \{pretrain: NAME\}",
        ),
    ],
)
def test_what_does_not_fit_is_said(tmp_path: Path, change: Any, config: Any, message: str) -> None:
    body = {key: value for key, value in (BODY | change).items() if value is not None}
    with pytest.raises(ConfigError, match=message):
        resolved(tmp_path, body, **config)

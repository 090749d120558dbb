"""The rule by which defaults are chosen: by hand."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import bench_module
import pytest
import yaml

from maskmill.recipe.resolve import SHIPPED, load


@pytest.fixture
def choose(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return bench_module.load("choose", monkeypatch)


SCORES = {  # ranks by set: a 1 2 2, b 2 1 1, c 3 3 3
    "a": {"x": 0.9, "y": 0.3, "z": 0.4},
    "b": {"x": 0.5, "y": 0.4, "z": 0.5},
    "c": {"x": 0.1, "y": 0.2, "z": 0.3},
}


def test_the_best_mean_rank_wins_however_large_one_lead_is(choose: ModuleType) -> None:
    assert choose.chosen(SCORES, ["x", "y", "z"]) == "b"
    assert choose.chosen(SCORES, ["x"]) == "a"
    assert choose.chosen({"a": {"x": 1.0, "y": 0.0}, "b": {"x": 0.2, "y": 0.1}}, ["x", "y"]) == "a"  # equal: mean score
    assert choose.chosen({"a": {"x": 0.5}, "b": {"x": 0.5}}, ["x"]) == "a"  # equal: the order of the file


def test_a_set_has_no_part_in_what_is_chosen_for_it(choose: ModuleType) -> None:
    """Without x b is ahead on both others; without y or z one win each, and a has the larger mean."""
    held = choose.left_out(SCORES)
    assert held == {"x": "b", "y": "a", "z": "a"}
    changed = {setting: row | {"x": 1 - row["x"]} for setting, row in SCORES.items()}
    assert choose.left_out(changed)["x"] == held["x"]
    text = choose.table("choice", SCORES)
    assert "| `b` (ships; chosen here) | 50.0 | 40.0 | 50.0 |" in text
    assert "| **untouched**: chosen without the set | 50.0 (b) | 30.0 (a) | 40.0 (a) |" in text


def test_every_setting_of_every_choice_is_a_recipe_that_resolves(choose: ModuleType, tmp_path: Path) -> None:
    known = yaml.safe_load(choose.CHOICES.read_text())
    for name, choice in known["choices"].items():
        for setting, body in choice["settings"].items():
            file = tmp_path / f"{name}.{setting}.yaml"
            file.write_text(yaml.safe_dump(choose.recipe_of(choice, body, 7)))
            run = load({"recipes": [str(file)], "preset": ["small", "choose"]}, SHIPPED)
            recipe = run.recipes[file.stem]
            assert recipe.cluster.params.clusters == (6 if choice["recipe"] == "comus" else 7)
            for stage, keys in body.items():
                section = recipe.stage(stage).as_dict()
                assert {key: section[key] for key in keys} == keys

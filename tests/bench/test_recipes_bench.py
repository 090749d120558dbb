"""bench/recipes.py: numbers of clusters, which recipes there are, what is read of a run, and the order of a table."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from types import ModuleType

import bench_module
import pytest
import yaml


@pytest.fixture
def recipes(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return bench_module.load("recipes", monkeypatch)


def test_background_takes_the_place_of_a_cluster(recipes: ModuleType) -> None:
    def clusters(name: str) -> int:
        return int(recipes.recipe_of(name, "small", 11)["presets"]["table"]["cluster"]["clusters"])

    assert [clusters(name) for name in ("kmeans", "stego", "leiden", "segsort")] == [11, 11, 11, 11]
    assert [clusters(name) for name in ("comus", "tokencut", "leopart_cbfe")] == [10, 10, 10]


def test_facts_name_recipes_and_sets_that_exist(recipes: ModuleType) -> None:
    facts, sets = recipes._facts(), yaml.safe_load(recipes.CHOICES.read_text())["sets"]
    shipped = {path.stem for path in (recipes.ROOT / "recipes").glob("*.yaml")}
    assert {*facts["left_out"], *facts["no_background"], *facts["chosen"]} <= shipped
    assert {*facts["objects"], *(name for each in facts["chosen"].values() for name in each)} <= set(sets)


def test_every_recipe_resolves_with_as_many_clusters_as_a_set_has_classes(recipes: ModuleType, tmp_path: Path) -> None:
    names = [path.stem for path in (recipes.ROOT / "recipes").glob("*.yaml") if path.stem != "named"]
    asked = argparse.Namespace(work=tmp_path, data="/data", preset="small", seeds=[0], limit=10, side=224)
    run = recipes.load(recipes.configured("camvid", names, asked), recipes.ROOT / "recipes")
    assert set(run.recipes) == set(names)
    assert {
        recipe.features["semantic"].size.short_side for recipe in run.recipes.values() if "semantic" in recipe.features
    } == {224}


def test_cpu_seconds_are_those_of_one_owner(recipes: ModuleType, tmp_path: Path) -> None:
    for path, seconds in (
        ("cut/a/s0.tsv", "2.5"),
        ("cluster_fit/a/seed0.tsv", "NA"),
        ("adapt_neighbours/a.tsv", "1.0"),
        ("cut/ab/s0.tsv", "9"),
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(f"s\tcpu_time\n1.0\t{seconds}\n")
    assert recipes.cpu_seconds(tmp_path, "a") == 3.5


def test_untouched_rows_come_first_then_the_best(recipes: ModuleType) -> None:
    rows = [
        recipes.Row("worse", {"hungarian_counts": [20.0, 22.0], "many_to_one": [30.0, 30.0]}, 11, 5.0, 1.0, None),
        recipes.Row("chosen", {"hungarian_counts": [40.0], "many_to_one": [41.0]}, 11, 5.0, 1.0, "its number"),
        recipes.Row("failed", {}, None, 0.0, 1.0, None),
        recipes.Row("best", {"hungarian_counts": [25.0], "many_to_one": [31.0]}, 12, 5.0, 1.0, None),
    ]
    lines = recipes.table("camvid", rows).splitlines()[2:]
    assert [line.split("`")[1] for line in lines] == ["best", "worse", "failed", "chosen"]
    assert lines[1] == "| `worse` | 11 | 21.0 ± 1.4 | 30.0 ± 0.0 | 5 | 1 | untouched |"
    assert lines[2].count("|  |") >= 1
    assert lines[3].endswith("| chosen here: its number |")


def test_scores_are_those_of_the_last_round(recipes: ModuleType, tmp_path: Path) -> None:
    """Files as the stage evaluate writes them; ncut_color has one round of self-training."""
    asked = argparse.Namespace(work=tmp_path, data="/data", preset="small", seeds=[0, 1], limit=10, side=None)
    config = recipes.configured("camvid", ["kmeans", "ncut_color"], asked)
    for recipe, seed, last, miou in (
        ("kmeans", 0, 0, 0.25),
        ("ncut_color", 0, 0, 0.9),
        ("ncut_color", 0, 1, 0.5),
        ("ncut_color", 1, 1, 0.6),
    ):
        path = tmp_path / f"results/recipes/{recipe}/seed{seed}/round{last}/scores.json"
        path.parent.mkdir(parents=True)
        score = {"protocol": {"name": "hungarian_counts"}, "miou": miou}
        path.write_text(json.dumps({"clusters": 11, "scores": [score]}))
    rows = {row.recipe: row for row in recipes.rows_of(tmp_path, "camvid", config)}
    assert rows["kmeans"].scores == {"hungarian_counts": [25.0]}
    assert rows["ncut_color"].scores == {"hungarian_counts": [50.0, 60.0]}
    assert rows["kmeans"].chosen is not None  # not to whiten
    assert rows["ncut_color"].clusters == 11

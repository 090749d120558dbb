"""What runs again after a change of a taxonomy, on the graph of jobs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from maskmill.dag.files import Graph
from maskmill.dag.jobs import Job, jobs, run_again
from maskmill.errors import ConfigError
from maskmill.recipe.resolve import load

ROOT = Path(__file__).parents[2]
FILE = """
taxonomy: 1
recipe: kmeans
classes: [{name: road, clusters: [1, 2]}, {name: car, clusters: [3]}]
"""
NAMED = {"taxonomy_names", "evaluate", "export", "report"}
PAINTED = NAMED | {"taxonomy_fit", "paint"}


def made(**change: Any) -> dict[str, Job]:
    config = {"recipes": ["kmeans"], "labels": "labels"} | change
    return jobs(Graph(load(config, ROOT / "recipes"), lambda: ("s0000000000", "s0000000001")))


def file(folder: Path, text: str = FILE) -> dict[str, str]:
    path = folder / "taxonomy.yaml"
    path.write_text(text)
    return {"source": "file", "file": str(path)}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("road", "street"), NAMED),
        (("name: car", 'name: car, colour: "#112233"'), NAMED),
        (("[1, 2]", "[1]"), PAINTED),
        (("[3]}]", "[3]}]\nbackground: [4]"), PAINTED),
        (("[3]}]", "[3]}]\nunnamed: keep"), PAINTED),
        (("[3]}]", "[3]}]\ncorrections: [{image: a, class: car}]"), PAINTED),
    ],
)
def test_what_runs_again(tmp_path: Path, change: tuple[str, str], expected: set[str]) -> None:
    before = made(taxonomy=file(tmp_path))
    now = made(taxonomy=file(tmp_path, FILE.replace(*change)))
    assert {job.rule for job in run_again(before, now).values()} == expected


def test_clusters_stay_when_they_get_names(tmp_path: Path) -> None:
    """From no taxonomy to a file: nothing before paint runs, and what compares clusterings is not asked for."""
    again = {job.rule for job in run_again(made(), made(taxonomy=file(tmp_path))).values()}
    assert again == PAINTED
    assert "evaluate_candidates" in {job.rule for job in made().values()}


def test_students_train_again_only_for_other_classes(tmp_path: Path) -> None:
    text = FILE.replace("recipe: kmeans\n", "")
    config: dict[str, Any] = {"recipes": ["comus"], "preset": "small"}
    before = made(**config, taxonomy=file(tmp_path, text))
    assert {"taxonomy_map", "rounds_train"} <= {job.rule for job in before.values()}
    renamed = made(**config, taxonomy=file(tmp_path, text.replace("road", "street")))
    assert {job.rule for job in run_again(before, renamed).values()} == NAMED
    merged = made(**config, taxonomy=file(tmp_path, text.replace("[1, 2]", "[1]")))
    assert "rounds_train" in {job.rule for job in run_again(before, merged).values()}


def test_a_file_serves_its_own_recipe(tmp_path: Path) -> None:
    """The other recipes of the run keep their clusters."""
    run = load({"recipes": ["kmeans", "comus"], "preset": "small", "taxonomy": file(tmp_path)}, ROOT / "recipes")
    assert (run.recipes["kmeans"].named, run.recipes["comus"].named) == (True, False)
    with pytest.raises(ConfigError, match="written for kmeans, which this run does not have"):
        load({"recipes": ["comus"], "preset": "small", "taxonomy": file(tmp_path)}, ROOT / "recipes")


def test_an_impossible_file_is_known_before_the_first_job(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cluster 3 is in class 'road' and in class 'car'"):
        made(taxonomy=file(tmp_path, FILE.replace("[1, 2]", "[1, 2, 3]")))

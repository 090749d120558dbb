"""Which files of a finished run are missing, and in which order they are made again, without Snakemake."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from maskmill.dag.asked import Asked
from maskmill.dag.files import Graph
from maskmill.dag.jobs import Job, jobs
from maskmill.dag.restore import Deleted, deleted
from maskmill.recipe.resolve import load

ROOT = Path(__file__).parents[2]
SHARDS = tuple(f"s{i:010x}" for i in range(3))
CONFIG = {"recipes": ["kmeans", "comus"], "preset": "small", "labels": "labels"}


@pytest.fixture
def run(tmp_path: Path) -> tuple[Graph, str]:
    """A finished run of files that hold their stamp only; each is a second younger than what it was made from."""
    graph, place = Graph(load(CONFIG, ROOT / "recipes"), lambda: SHARDS), f"{tmp_path}/"
    asked = Asked(graph)
    for i, job in enumerate(jobs(graph).values()):
        for name in job.outputs:
            file = tmp_path / name
            stamp = {"provenance": {"asked": asked.of(job.rule, job.wildcards)}}
            if file.suffix == ".zarr":
                file.mkdir(parents=True)
                (file / "zarr.json").write_text(json.dumps({"attributes": stamp}))
            elif file.suffix == ".json":
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(json.dumps(stamp))
            else:  # of the others only that they are there
                file.parent.mkdir(parents=True, exist_ok=True)
                file.touch()
            os.utime(file, (i, i))
    return graph, place


def remove(run: tuple[Graph, str], *keys: str) -> Deleted | None:
    graph, place = run
    for key in keys:
        os.rename(place + key, f"{place}{key}.gone")
    return deleted(graph, Asked(graph), place)


def of(run: tuple[Graph, str], rule: str, recipe: str = "comus") -> Job:
    found = jobs(run[0]).values()
    return next(job for job in found if job.rule == rule and job.wildcards.get("recipe", recipe) == recipe)


def test_nothing_is_missing_from_a_finished_run(run: tuple[Graph, str]) -> None:
    assert remove(run) is None


def test_a_run_that_has_not_finished_is_snakemakes_business(run: tuple[Graph, str]) -> None:
    assert remove(run, "results/report.html", of(run, "cut").key) is None


def test_a_run_of_another_configuration_is_snakemakes_business(run: tuple[Graph, str]) -> None:
    graph = Graph(load(CONFIG | {"cluster": {"clusters": 7}}, ROOT / "recipes"), lambda: SHARDS)
    (Path(run[1]) / of(run, "cut").key).rename(run[1] + "gone")
    assert deleted(graph, Asked(graph), run[1]) is None


def test_what_comes_before_a_training_waits(run: tuple[Graph, str]) -> None:
    cuts = [job.key for job in jobs(run[0]).values() if job.rule == "cut"]
    score = "results/recipes/comus/seed0/round1/scores.json"
    found = remove(run, *cuts, score)
    assert found is not None
    assert found.files() == [score]
    assert found.later == set(cuts)
    assert "again for 3 more" in found.message()


def test_times_are_those_of_the_oldest_reader(run: tuple[Graph, str]) -> None:
    place = Path(run[1])
    cut, regions = of(run, "cut"), of(run, "regions")
    found = remove(run, cut.key)
    assert found is not None
    (place / f"{cut.key}.gone").rename(place / cut.key)
    (place / cut.key).touch()
    assert found.set_times() == [str(place / cut.key)]
    assert (place / cut.key).stat().st_mtime <= min((place / name).stat().st_mtime for name in regions.outputs)


def test_times_stay_where_something_before_is_new(run: tuple[Graph, str]) -> None:
    """Then what is made again may differ, and its readers run again."""
    place = Path(run[1])
    cut = of(run, "cut")
    found = remove(run, cut.key)
    assert found is not None
    (place / f"{cut.key}.gone").rename(place / cut.key)
    for name in (*cut.inputs["features"].files, cut.key):
        (place / name).touch()
    assert found.set_times() == []


def test_a_thousand_shards_are_judged_at_once(run: tuple[Graph, str], tmp_path: Path) -> None:
    """Jobs of all shards are judged together, so that the effort does not grow with their square."""
    graph = Graph(run[0].run, lambda: tuple(f"s{i:010x}" for i in range(1000)))
    everything = jobs(graph)
    from maskmill.dag import restore

    missing = {key for key, job in everything.items() if job.rule in ("features", "evaluate")}
    later = restore._later(everything, missing)
    assert {everything[key].rule for key in later} == {"features"}
    assert {everything[key].rule for key in missing - later} == {"evaluate"}

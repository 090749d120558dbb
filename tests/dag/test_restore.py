"""Which files of a finished run are missing, and in which order they are made again, without Snakemake."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from maskmill.dag import restore
from maskmill.dag.asked import Asked
from maskmill.dag.files import Graph
from maskmill.dag.flow import Flow
from maskmill.dag.jobs import Job, jobs
from maskmill.dag.restore import RECORD, Deleted, Finished, deleted, look, unmade
from maskmill.errors import StoreError
from maskmill.recipe.resolve import load

ROOT = Path(__file__).parents[2]
SHARDS = tuple(f"s{i:010x}" for i in range(3))
CONFIG = {"recipes": ["kmeans", "comus"], "preset": "small", "labels": "labels"}


TOLD = "the configuration and all else that results depend on"


@pytest.fixture
def run(tmp_path: Path) -> tuple[Graph, str]:
    """A finished, recorded run of files that hold their stamp only; each is younger than what it was made from."""
    graph, place = Graph(load(CONFIG, ROOT / "recipes"), lambda: SHARDS), f"{tmp_path}/"
    asked = Asked(graph)
    for i, job in enumerate(jobs(graph).values()):
        for name in job.outputs:
            make(tmp_path / name, asked.of(job.rule, job.wildcards), i)
    Finished.of(graph, Asked(graph), TOLD, place).write()
    return graph, place


def make(file: Path, stamp: str, second: int) -> None:
    body = {"provenance": {"asked": stamp}}
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".zarr":
        file.mkdir(exist_ok=True)
        (file / "zarr.json").write_text(json.dumps({"attributes": body}))
    else:
        file.write_text(json.dumps(body) if file.suffix == ".json" else "")
    os.utime(file, (second, second))


def ask(run: tuple[Graph, str], told: str = TOLD) -> Deleted | None:
    graph, place = run
    return deleted(graph, Asked(graph), lambda: told, look(place))


def remove(run: tuple[Graph, str], *keys: str) -> Deleted | None:
    for key in keys:
        path = Path(run[1] + key)
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return ask(run)


def again(run: tuple[Graph, str], key: str, second: int = 10**6) -> None:
    """What a job does that makes a file again."""
    make(Path(run[1] + key), Asked(run[0]).of_file(key), second)


def of(run: tuple[Graph, str], rule: str, recipe: str = "comus") -> Job:
    found = jobs(run[0]).values()
    return next(job for job in found if job.rule == rule and job.wildcards.get("recipe", recipe) == recipe)


def time(run: tuple[Graph, str], key: str) -> float:
    return Path(run[1] + key).stat().st_mtime


SCORE = "results/recipes/comus/seed0/round1/scores.json"


def test_nothing_is_missing_from_a_finished_run(run: tuple[Graph, str]) -> None:
    assert ask(run) is None


def test_a_run_that_was_never_recorded_is_snakemakes_business(run: tuple[Graph, str]) -> None:
    Path(run[1] + RECORD).unlink()
    assert remove(run, SCORE) is None


def test_another_configuration_is_snakemakes_business(run: tuple[Graph, str]) -> None:
    """Whatever it is: another seed, other labels, a paint that failed; its files are not taken for deleted ones."""
    assert remove(run, SCORE) is not None
    assert ask(run, "other") is None


def test_what_a_failed_job_lost_is_asked_for_although_its_readers_have_finished(run: tuple[Graph, str]) -> None:
    """Scores of labels that have changed, masks of another setting; not what somebody deleted."""
    place = run[1]
    cut, masks = of(run, "cut").key, of(run, "paint").key
    for key in (SCORE, cut, masks):
        remove(run, key)
    assert unmade(run[0], Asked(run[0]), look(place), place) == [SCORE]
    other = Graph(load(CONFIG | {"paint": {"keep_closest": 0.5}}, ROOT / "recipes"), lambda: SHARDS)
    assert set(unmade(other, Asked(other), look(place), place)) == {SCORE, masks}
    assert set(unmade(run[0], Asked(run[0]), None, place)) == {SCORE, masks, cut}
    Path(place + "results/report.html").unlink()  # then Snakemake comes to all of them by itself
    assert unmade(run[0], Asked(run[0]), look(place), place) == []


def test_what_a_run_did_not_need_is_missed_at_the_next_start(run: tuple[Graph, str]) -> None:
    """A deleted report is Snakemake's business, and what was deleted with it is made again afterwards."""
    graph, place = run
    cut, report = of(run, "cut").key, "results/report.html"
    remove(run, report, cut)
    seen = look(place)
    assert seen is not None
    make(Path(place + report), "", 10**6)
    Finished.of(graph, Asked(graph), TOLD, place, before=seen.finished).write()
    found = ask(run)
    assert found is not None
    assert found.now == [cut]
    again(run, cut)
    found.done()
    assert ask(run) is None


def test_files_that_were_made_anew_meanwhile_are_snakemakes_business(run: tuple[Graph, str]) -> None:
    again(run, of(run, "cut").key)
    assert remove(run, SCORE) is None


def test_a_file_of_another_job_in_the_place_of_one_is_named(run: tuple[Graph, str]) -> None:
    """Also where nothing would read it, and nothing is missing."""
    first, second = (job.key for job in list(jobs(run[0]).values()) if job.rule == "cut" and SHARDS[2] not in job.key)
    shutil.rmtree(run[1] + first)
    shutil.copytree(run[1] + second, run[1] + first)
    os.utime(run[1] + first)
    with pytest.raises(StoreError, match=f"{first}: not what the configuration asks for"):
        ask(run)


@pytest.mark.parametrize("damage", ['{"attributes": null}', "[1]", "nonsense", '{"attributes": {"provenance": []}}'])
def test_a_damaged_file_is_named(run: tuple[Graph, str], damage: str) -> None:
    cut = of(run, "cut").key
    (Path(run[1] + cut) / "zarr.json").write_text(damage)
    os.utime(run[1] + cut)
    with pytest.raises(StoreError, match="it does not say what made it"):
        remove(run, SCORE)


def test_what_was_made_again_gets_the_time_that_it_had(run: tuple[Graph, str]) -> None:
    cut = of(run, "cut").key
    before = time(run, cut)
    found = remove(run, cut)
    assert found is not None
    assert found.now == [cut]
    again(run, cut)
    found.done()
    assert time(run, cut) == before
    assert ask(run) is None


def test_times_stay_where_something_else_is_new(run: tuple[Graph, str]) -> None:
    """Then what is made again may differ, and its readers run again."""
    cut = of(run, "cut")
    found = remove(run, cut.key)
    assert found is not None
    again(run, cut.key)
    again(run, cut.inputs["features"].files[0])
    found.done()
    assert time(run, cut.key) == 10**6
    assert not Path(run[1] + RECORD).exists()


def test_a_start_that_was_killed_while_it_made_files_again_is_gone_on_with(run: tuple[Graph, str]) -> None:
    cuts = [job.key for job in jobs(run[0]).values() if job.rule == "cut"]
    before = time(run, cuts[0])
    found = remove(run, *cuts)
    assert found is not None
    found.finished.write()  # as the driver does before its first job
    again(run, cuts[0])
    found = ask(run)
    assert found is not None
    assert set(found.now) == set(cuts[1:])
    assert time(run, cuts[0]) == before


def test_what_comes_before_a_training_waits(run: tuple[Graph, str]) -> None:
    cuts = [job.key for job in jobs(run[0]).values() if job.rule == "cut"]
    found = remove(run, *cuts, SCORE)
    assert found is not None
    assert found.now == [SCORE]
    assert found.later == len(cuts)
    assert "again for 3 more" in found.message()


def test_a_timing_is_not_missed(run: tuple[Graph, str]) -> None:
    """No result depends on it, and a training takes long."""
    assert remove(run, "results/recipes/comus/seed0/round1/training.json") is None


def test_an_embedding_that_may_differ_is_not_made_again_alone(tmp_path: Path) -> None:
    config = CONFIG | {"reduce": {"method": "umap", "deterministic": False}}
    graph, place = Graph(load(config, ROOT / "recipes"), lambda: SHARDS), f"{tmp_path}/"
    for job in jobs(graph).values():
        for name in job.outputs:
            make(tmp_path / name, Asked(graph).of(job.rule, job.wildcards), 1)
    Finished.of(graph, Asked(graph), TOLD, place).write()
    assert remove((graph, place), of((graph, place), "reduce_fit").key) is None


def test_a_thousand_shards_are_judged_at_once(run: tuple[Graph, str]) -> None:
    """Jobs of all shards are judged together, so that the effort does not grow with their square."""
    graph = Graph(run[0].run, lambda: tuple(f"s{i:010x}" for i in range(1000)))
    everything = jobs(graph)
    missing = {key for key, job in everything.items() if job.rule in ("features", "evaluate")}
    later = restore._later(everything, Flow.of(everything), missing)
    assert {everything[key].rule for key in later} == {"features"}
    assert {everything[key].rule for key in missing - later} == {"evaluate"}

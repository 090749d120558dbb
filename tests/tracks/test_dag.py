"""Tracks in the graph of jobs: off unless the section is given, and then nothing before them runs again."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pyarrow as pa
import pytest

from maskmill.dag.files import Graph
from maskmill.dag.jobs import Job, jobs, run_again
from maskmill.dag.rules import Rules
from maskmill.errors import ConfigError, InputError
from maskmill.recipe.resolve import load
from maskmill.store.artefact import write_table

ROOT = Path(__file__).parents[2]
BASE = {"recipes": ["kmeans", "comus", "stego", "cutler"], "preset": "small"}
STAGE = {"tracks_match", "tracks_join", "tracks_map"}


def made(config: dict[str, Any]) -> dict[str, Job]:
    return jobs(Graph(load(config, ROOT / "recipes"), lambda: ("s0000000000", "s0000000001")))


def reads(config: dict[str, Any], recipe: str, rule: str) -> set[str]:
    job = next(job for job in made(config).values() if job.rule == rule and job.owner == recipe)
    return set(job.inputs)


def test_off_by_default() -> None:
    off = made(BASE)
    assert STAGE.isdisjoint(job.rule for job in off.values())
    assert {key: job.depends for key, job in made(BASE | {"tracks": None}).items()} == {
        key: job.depends for key, job in off.items()
    }
    assert not any("tracks" in job.depends for job in off.values())
    assert load(BASE | {"tracks": True}, ROOT / "recipes") == load(BASE | {"tracks": {}}, ROOT / "recipes")
    assert load(BASE | {"tracks": False}, ROOT / "recipes") == load(BASE, ROOT / "recipes")


def test_what_runs_when_it_is_turned_on() -> None:
    found = run_again(made(BASE), made(BASE | {"tracks": {}}))
    assert {job.rule for job in found.values()} == STAGE | {"export", "report"}
    assert {job.owner for job in found.values() if job.rule == "tracks_join"} == set(BASE["recipes"])


def test_what_is_read() -> None:
    on = BASE | {"tracks": {}}
    assert reads(on, "kmeans", "tracks_match") == {"manifest", "masks", "features"}
    assert reads(on, "cutler", "tracks_match") >= {"instances"}
    assert "features" not in reads(BASE | {"tracks": {"flow": "none", "match": "overlap"}}, "kmeans", "tracks_join")
    assert reads(on, "kmeans", "tracks_map") == {"manifest", "masks", "tracks"}
    assert "tracks" in reads(on, "kmeans", "export")
    job = next(job for job in made(on).values() if job.rule == "tracks_join" and job.owner == "stego")
    assert all(file.startswith("results/features/") for file in job.inputs["features"].files)  # not the codes


def test_a_feature_set_that_there_is_not() -> None:
    with pytest.raises(ConfigError, match=r"tracks\.features: no feature set 'semantik'"):
        load(BASE | {"tracks": {"features": "semantik"}}, ROOT / "recipes")


def test_the_report_knows_how_agreement_is_measured() -> None:
    """What a finished run is compared with has every setting: a file of another setting is none that was deleted."""
    plans = {
        radius: next(job.depends for job in made(BASE | {"evaluate": {"time": {"radius": radius}}}).values()
                     if job.rule == "report")
        for radius in (3, 9)
    }  # fmt: skip
    assert plans[3] != plans[9]


@pytest.mark.parametrize("asks", [{"tracks": {}}, {"evaluate": {"time": True}}])
def test_photos_that_do_not_follow_one_another_are_said_before_any_job(asks: dict[str, Any], tmp_path: Path) -> None:
    columns = {"id": ["a/1", "a/2"], "path": ["/p/a/1.png", "/p/a/2.png"], "width": [8, 8], "height": [8, 8]}
    table = pa.table(columns | {"shard": ["s0", "s0"], "label": pa.array([None, None], pa.string())})
    write_table(tmp_path / "manifest.parquet", table)
    run = load(BASE | asks, ROOT / "recipes")
    with pytest.raises(InputError, match=r"^(tracks|evaluate\.time): "):
        Rules._check_order(cast("Rules", SimpleNamespace(run=run)), str(tmp_path / "manifest.parquet"))
    plain = SimpleNamespace(run=load(BASE, ROOT / "recipes"))
    Rules._check_order(cast("Rules", plain), str(tmp_path / "manifest.parquet"))

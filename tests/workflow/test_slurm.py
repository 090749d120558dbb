"""The workflow on a real SLURM cluster (slurm_cluster.py), with the profile that we ship: whole, and through faults.

Three scenarios belong to the suite; the others are part of the table of faults (`make test-faults`). All runs that the
chosen tests wait for start together and each test waits for its own: most of the time is SLURM's and the plugin's
waiting. A fault run begins as a copy of a finished local run that lacks one artefact. `maskmill` is replaced by a
script that notes every call and does something bad in the first one, so that each test sees how often the missing part
was made.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import slurm_cluster
import yaml
from fault_run import RECIPES, Fault, lacking, late, until
from slurm_cluster import Cluster
from small_run import command, configuration, environment, masks, site

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Skips with the reason where SLURM can not run, except in CI."""
    in_ci = os.environ.get("CI", "").lower() not in ("", "0", "false")
    if not in_ci:
        pytest.importorskip("snakemake_executor_plugin_slurm")
    try:
        if in_ci:
            slurm_cluster.install()
        running = slurm_cluster.cluster()
        with running as made:
            yield made
    except slurm_cluster.UnavailableError as reason:
        if in_ci:
            raise
        pytest.skip(str(reason))


def start(
    cluster: Cluster,
    work: Path,
    config: dict[str, Any],
    *options: str,
    resources: dict[str, dict[str, Any]] | None = None,
) -> subprocess.Popen[str]:
    """Snakemake in `work` with the profile of this site; its output goes to `work`/driver.log."""
    (work / "config.yaml").write_text(yaml.safe_dump(config))
    profile = site(work / "site", resources or {})
    with (work / "driver.log").open("a") as log:
        return subprocess.Popen(
            command(work, *options, profile=profile),
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
            env=cluster.environment() | {"PATH": f"{work / 'bin'}:{environment()['PATH']}"},
            start_new_session=True,
        )


SLOW = """\
import sys, time
from maskmill.cli import main
from maskmill.training import loop
move = loop._move
def slow(average, task, step):
    time.sleep(0.3)
    move(average, task, step)
loop._move = slow
main()
"""


@pytest.fixture(scope="module")
def runs(
    request: pytest.FixtureRequest,
    cluster: Cluster,
    finished: Path,
    photos: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[str, Fault]]:
    """The runs that the chosen tests wait for, by name, started; every driver ends with the module."""
    marks = [mark for item in request.session.items for mark in item.iter_markers("scenario")]
    wanted = {name for mark in marks for name in mark.args}
    root, made = tmp_path_factory.mktemp("slurm"), {}
    mask = next((finished / "results/recipes/comus/seed0/round0/masks").glob("*.zarr")).relative_to(finished)
    student = "results/recipes/comus/seed0/round1/student.safetensors"
    hog = f"{sys.executable} -c 'import time; x = bytearray(b\"x\") * (2 << 30); time.sleep(100)'"
    (root / "slow.py").write_text(SLOW)
    slow = f'exec {sys.executable} {root / "slow.py"} "$@"'
    spare = {"slurm_partition": "spare", "gpu": 0, "checkpoint_steps": 5}
    plans = {
        "pre-empted": (student, "rounds", slow, {"rounds_train": spare}),
        "cancelled": (mask, "paint", "exec sleep 500", {"paint": {"slurm_partition": "scavenge"}}),
        "time limit": (mask, "paint", "exec sleep 500", {"paint": {"runtime": "attempt"}}),
        "node": (mask, "paint", "exec sleep 500", {"paint": {"slurm_partition": "frail"}}),
        "isolated": (mask, "paint", late(root / "late.py", "paint"), {"paint": {"slurm_partition": "remote"}}),
        "memory": (mask, "paint", hog, {"paint": {"mem_mb": "1500 * attempt"}}),
        "driver": (mask, "paint", "exec sleep 500", {}),
    }
    config = configuration(finished, *RECIPES)
    try:
        for name, (target, verb, fault, resources) in plans.items():
            if name not in wanted:
                continue
            work = root / name.replace(" ", "_")
            lacking(finished, work, str(target), verb, fault)
            made[name] = Fault(work, str(target), start(cluster, work, config, str(target), resources=resources))
        if "whole" in wanted:
            work = root / "whole"
            work.mkdir()
            shutil.copytree(finished / "resources", work / "resources")
            alone = configuration(finished, "comus") | {"labels": None, "evaluate": {}, "rounds": {"count": 1}}
            made["whole"] = Fault(work, "", start(cluster, work, alone))
        strike(cluster, made)
        yield made
    finally:
        for run in made.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(run.driver.pid, signal.SIGKILL)
            run.driver.wait()


def strike(cluster: Cluster, runs: dict[str, Fault]) -> None:
    """The faults that come from outside, as soon as the jobs that they hit run."""
    for name in {"node", "isolated", "driver", "cancelled"} & set(runs):
        runs[name].fault_began()
    for name, lose in {"node": cluster.crash_node, "isolated": cluster.isolate_node}.items():
        if name in runs:
            job = runs[name].calls("paint")[0][1]
            lose(cluster.ask("squeue", "--noheader", "--format=%N", "--jobs", job).strip())
    if "driver" in runs:
        os.kill(runs["driver"].driver.pid, signal.SIGKILL)
        runs["driver"].driver.wait()
    if "pre-empted" in runs:
        trained = runs["pre-empted"]
        folder = (trained.work / trained.target).parent
        until(lambda: list(folder.glob(".student.checkpoint/*.safetensors")), trained.log)
    if {"pre-empted", "cancelled"} & set(runs):
        # one urgent job takes the node of the training and of the job that is cancelled
        urgent = ["sbatch", "--parsable", "-p", "urgent", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 1"]
        assert cluster.ask(*urgent).strip()


@pytest.mark.scenario("driver")
def test_a_driver_that_is_killed_and_started_again(cluster: Cluster, runs: dict[str, Fault], finished: Path) -> None:
    """Its job runs on; the next driver cancels it before it submits the same work."""
    run = runs["driver"]
    orphan = run.calls("paint")[0][1]
    assert cluster.ask("squeue", "--noheader", "--format=%T", "--jobs", orphan).strip() == "RUNNING"
    config = yaml.safe_load((run.work / "config.yaml").read_text())
    refused = start(cluster, run.work, config, run.target)
    assert refused.wait(120) != 0  # the lock of the killed driver
    assert "--unlock" in run.log()
    assert start(cluster, run.work, config, run.target, "--unlock").wait(120) == 0
    again = Fault(run.work, run.target, start(cluster, run.work, config, run.target))
    runs["driver"] = again
    log = again.wait()
    assert f"an earlier run was killed and left 1 SLURM jobs ({orphan}); cancelling them first" in log
    again.only_the_missing_part_was_made(finished)
    (_, _), (second, other) = again.calls("paint")
    assert other != orphan
    ended = cluster.ask("scontrol", "show", "job", orphan).split("EndTime=")[1].split()[0]
    assert datetime.fromisoformat(ended).timestamp() <= second  # never beside its orphan


@pytest.mark.faults
@pytest.mark.scenario("pre-empted")
def test_a_training_that_is_preempted_goes_on(runs: dict[str, Fault], finished: Path) -> None:
    """SLURM sends SIGTERM and gives it time to write a checkpoint."""
    run = runs["pre-empted"]
    run.wait()
    run.only_the_missing_part_was_made(finished)
    assert len(run.calls("rounds")) == 2
    again = (run.work / "logs/rounds_train/comus/seed0/round1.log").read_text()
    assert re.search(r"goes on after step \d+ of 60", again)


@pytest.mark.faults
@pytest.mark.scenario("cancelled")
def test_preemption_that_cancels(runs: dict[str, Fault], finished: Path) -> None:
    """The plugin alone would wait for the job for ever."""
    run = runs["cancelled"]
    log = run.wait()
    run.only_the_missing_part_was_made(finished)
    (_, first), (_, second) = run.calls("paint")
    assert first == second
    assert f"SLURM job {first} was pre-empted and cancelled; put back into the queue" in log


@pytest.mark.scenario("node")
def test_a_node_that_dies(runs: dict[str, Fault], finished: Path) -> None:
    run = runs["node"]
    run.wait()
    run.only_the_missing_part_was_made(finished)
    (_, first), (_, second) = run.calls("paint")
    assert first == second  # requeued by SLURM


@pytest.mark.faults
@pytest.mark.scenario("isolated")
def test_a_node_that_slurm_sees_no_more_while_its_job_goes_on(runs: dict[str, Fault], finished: Path) -> None:
    """Requeued on another node, the job is made there; the first one ends later and leaves that file alone."""
    run = runs["isolated"]
    run.wait()
    run.only_the_missing_part_was_made(finished)
    assert len(run.calls("paint")) == 2
    assert not (run.work / "ended").exists()
    (run.work / "go").touch()
    until((run.work / "ended").exists, run.log)
    assert f"{run.target}: a later job writes it" in (run.work / "said").read_text()
    run.only_the_missing_part_was_made(finished)


@pytest.mark.faults
@pytest.mark.parametrize(
    ("name", "said"),
    [
        pytest.param("memory", "exceeded memory limit", marks=pytest.mark.scenario("memory")),
        pytest.param("time limit", "DUE TO TIME LIMIT", marks=pytest.mark.scenario("time limit")),
    ],
)
def test_a_job_over_its_limit_gets_more(runs: dict[str, Fault], finished: Path, name: str, said: str) -> None:
    run = runs[name]
    log = run.wait()
    assert said in "".join(file.read_text() for file in (run.work / ".snakemake/slurm_logs").rglob("*.log"))
    assert "Trying to restart job" in log
    run.only_the_missing_part_was_made(finished)
    assert len(run.calls("paint")) == 2


@pytest.mark.scenario("whole")
def test_the_whole_workflow_gives_the_masks_of_a_local_run(runs: dict[str, Fault], finished: Path) -> None:
    run = runs["whole"]
    log = run.wait()
    local = {name: hash_ for name, hash_ in masks(finished).items() if "/comus/" in name and "round2" not in name}
    assert masks(run.work) == local
    assert len(local) >= 4  # two shards, rounds 0 and 1
    assert "Submitted array job" in log
    assert (run.work / "results/report.html").exists()

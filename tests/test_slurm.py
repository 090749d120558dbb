"""The workflow on a real SLURM cluster (slurm_cluster.py), with the profile that we ship."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import slurm_cluster
import yaml
from slurm_cluster import Cluster
from small_run import ROOT, SMALL, command, environment, masks

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Skips with the reason where SLURM can not run, except in CI."""
    pytest.importorskip("snakemake_executor_plugin_slurm")
    in_ci = os.environ.get("CI", "").lower() not in ("", "0", "false")
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


def site(folder: Path, **changes: Any) -> Path:
    """The shipped profile as a site would change it: its partitions, threads that its nodes have, quicker checks."""
    profile = yaml.safe_load((ROOT / "profiles/slurm/profile.yaml").read_text())
    profile["default-resources"]["slurm_partition"] = "main"
    profile["set-threads"] = {"features": 2, "rounds_train": 2}
    for rule in ("features", "rounds_train", "cluster_fit"):
        profile["set-resources"][rule]["slurm_partition"] = "gpu"
    profile |= {"slurm-init-seconds-before-status-checks": 7, "latency-wait": 20, "max-status-checks-per-second": 10}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "profile.yaml").write_text(yaml.safe_dump(profile | changes))
    return folder


def start(cluster: Cluster, work: Path, config: dict[str, Any], *options: str, **changes: Any) -> subprocess.Popen[str]:
    """Snakemake in `work` with the profile of this site; its output goes to `work`/driver.log."""
    (work / "config.yaml").write_text(yaml.safe_dump(config))
    profile = site(work / "site", **changes)
    with (work / "driver.log").open("a") as log:
        return subprocess.Popen(
            command(work, *options, profile=profile),
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
            env=cluster.environment() | {"PATH": environment()["PATH"]},
            start_new_session=True,
        )


def test_the_whole_workflow_gives_the_masks_of_a_local_run(
    cluster: Cluster, finished: Path, photos: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished / "resources", tmp_path / "resources")
    config = SMALL | {"images": str(photos / "images"), "recipes": ["comus"]}
    config |= {"rounds": SMALL["rounds"] | {"count": 1}}
    run = start(cluster, tmp_path, config)
    code, log = run.wait(300), (tmp_path / "driver.log").read_text()
    assert code == 0, log
    local = {name: hash_ for name, hash_ in masks(finished).items() if "comus" in name and "round2" not in name}
    assert masks(tmp_path) == local
    assert len(local) >= 4  # two shards, rounds 0 and 1
    assert "Submitted array job" in log
    assert (tmp_path / "results/report.html").exists()

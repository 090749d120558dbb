"""The graph of jobs: what a shard's job reads, and what becomes of feature sets that are not kept."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from empty_run import blocks, nothing, prepare
from small_run import command, jobs

pytestmark = pytest.mark.slow
SHARDS = 4


def run(root: Path, *options: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command(root / "work", *options), capture_output=True, text=True, check=False, env=nothing(root)
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def most_stores(done: subprocess.CompletedProcess[str]) -> int:
    """The most feature stores that lay on the disk, or were being made, at once."""
    here, most = 0, 0
    for line in (done.stdout + done.stderr).splitlines():
        here += line.endswith("rule features_temporary:")
        here -= line.startswith("Removing temporary output results/features/")
        most = max(most, here)
    return most


def test_a_shards_job_reads_no_file_of_another_shard(tmp_path: Path) -> None:
    """Else the graph has shards x shards edges, and Snakemake plans two thousand shards for an hour."""
    prepare(tmp_path, SHARDS, recipes=["comus", "cutler", "leopart_cbfe"])
    planned = blocks(run(tmp_path, "--dry-run"))
    mapped = [(rule, lines) for rule, lines in planned if "shard=" in lines.get("wildcards", "")]
    assert {"features", "cut", "regions", "cluster_map", "paint", "rounds_predict", "rounds_teach"} <= dict(
        mapped
    ).keys()
    for rule, lines in mapped:
        own = re.findall(r"shard=(s\w{10})", lines["wildcards"])
        assert set(re.findall(r"/(s[0-9a-f]{10})\.", lines["input"])) <= set(own), rule


def test_stores_that_are_not_kept(tmp_path: Path) -> None:
    """The cut of tokencut alone reads tokens: one store lies on the disk at once, and what is done stays done."""
    config = prepare(tmp_path, SHARDS, recipes=["tokencut"], features={"keep": False})
    done = run(tmp_path)
    assert jobs(done)["features_temporary"] == SHARDS
    assert not list((tmp_path / "work/results/features").glob("*/*.zarr"))
    assert most_stores(done) == 1
    for keep in (False, True):  # another mind makes nothing again that is finished
        (tmp_path / "work/config.yaml").write_text(yaml.safe_dump(config | {"features": {"keep": keep}}))
        again = run(tmp_path, "--dry-run")
        assert "Nothing to be done" in again.stdout + again.stderr
    again = run(tmp_path, "--dry-run", "--forcerun", "cut")
    assert jobs(again)["features"] == SHARDS  # what was deleted is made again for a reader


# Notes every folder of images that a process lists.
LISTED = """import os
scan = os.scandir
def noted(path="."):
    if {images!r} in str(path):
        open({log!r}, "a").write("x")
    return scan(path)
os.scandir = noted
"""


def test_a_job_on_a_cluster_node_does_not_list_the_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every start of a driver looks whether images came or went; the jobs that it submits do not."""
    prepare(tmp_path, 1, recipes=["kmeans"])
    log = tmp_path / "listed"
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(LISTED.format(images=str(tmp_path / "images"), log=str(log)))
    path = os.pathsep.join([str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path)
    planned = blocks(run(tmp_path, "--dry-run"))
    assert log.read_text()
    log.unlink()
    run(tmp_path, "--until", "weights")
    log.unlink()
    words = next(lines["wildcards"] for rule, lines in planned if rule == "features").replace(", ", ",")
    job = ["--target-jobs", f"features:{words}", "--allowed-rules", "features", "--mode", "remote", "--force"]
    run(tmp_path, *job, "--nolock")
    assert list((tmp_path / "work/results/features").glob("*/*.zarr"))
    assert not log.exists()

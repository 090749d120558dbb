"""Faults of one machine: a full disk, damaged files, two runs in one folder, killed processes, late files."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from fault_run import Fault, feature_sets, files, lacking, late, until
from small_run import command, environment

pytestmark = [pytest.mark.slow, pytest.mark.faults]

MASK = "results/recipes/comus/seed0/round0/masks"
WAIT = 'while [ ! -e "$(dirname "$0")/../go" ]; do sleep 0.1; done'


def start(work: Path, target: str, *options: str) -> subprocess.Popen[str]:
    """Plain snakemake for one artefact; its output goes to `work`/driver.log."""
    with (work / "driver.log").open("a") as log:
        return subprocess.Popen(
            command(work, target, *options),
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment() | {"PATH": f"{work / 'bin'}:{environment()['PATH']}"},
            start_new_session=True,
        )


def one(finished: Path, pattern: str) -> str:
    """The first artefact that fits, relative to the finished run."""
    return str(min(finished.glob(pattern)).relative_to(finished))


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Path]:
    """The folder of a run whose results lie on a disk of their own, of 256 MB."""
    work = tmp_path / "full"
    (work / "results").mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=256m", "tmpfs", str(work / "results")]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small tmpfs needs root")
    yield work
    subprocess.run(["umount", "--lazy", str(work / "results")], check=True)


def test_a_full_disk(finished: Path, tmpfs: Path) -> None:
    target = one(finished, f"results/features/{feature_sets(finished)[0]}/*.zarr")
    lacking(finished, tmpfs, target, "nothing", "true")
    free = shutil.disk_usage(tmpfs / "results").free
    (tmpfs / "results/filler").write_bytes(bytes(free - 200_000))
    run = Fault(tmpfs, target, start(tmpfs, target))
    assert run.driver.wait(120) != 0
    assert f"maskmill features: error: {target}: the disk is full (0.0 GiB free); free some space" in run.log()
    assert not list((tmpfs / target).parent.glob(".*"))  # no half of it stays
    (tmpfs / "results/filler").unlink()
    again = Fault(tmpfs, target, start(tmpfs, target))
    again.wait()
    again.only_the_missing_part_was_made(finished)


@pytest.mark.parametrize(
    ("damaged", "damage", "target", "redone"),
    [
        ("kmeans/reduce/*.zarr/values/c/0/0", "flip", "kmeans/seed0/round0/masks/*.zarr", "reduce cluster paint"),
        ("comus/seed0/cluster/s*.parquet", "truncate", "comus/seed0/round0/masks/*.zarr", "cluster paint-limits paint"),
        ("comus/seed0/cluster/codebook.safetensors", "flip", "comus/seed0/round0/masks/*.zarr", None),
    ],
)
def test_damaged_files_are_named_and_rebuilt(
    finished: Path, tmp_path: Path, damaged: str, damage: str, target: str, redone: str | None
) -> None:
    """Never used silently; deleted as the message says, they and what follows from them are made again."""
    work, target = tmp_path / "damaged", one(finished, f"results/recipes/{target}")
    lacking(finished, work, target, "nothing", "true")
    file = work / one(finished, f"results/recipes/{damaged}")
    artefact = next((folder for folder in file.parents if folder.suffix == ".zarr"), file)
    body = bytearray(file.read_bytes())
    if damage == "flip":
        body[-40 if file.suffix == ".safetensors" else len(body) // 2] ^= 1
    times = file.stat()
    file.write_bytes(body if damage == "flip" else body[: len(body) // 2])
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    run = Fault(work, target, start(work, target))
    assert run.driver.wait(120) != 0
    error = next(line for line in run.log().splitlines() if "maskmill paint: error: " in line)
    assert str(artefact.relative_to(work)) in error
    assert "delete it and run snakemake again" in error
    assert not (work / target).exists()
    if redone is None:
        return  # the rest is as above
    shutil.rmtree(artefact) if artefact.is_dir() else artefact.unlink()
    (work / "calls").unlink()
    again = Fault(work, target, start(work, target))
    again.wait()
    again.holds_the_same_bytes(finished)
    assert [line.split()[2] for line in (work / "calls").read_text().splitlines()] == redone.split()


def test_two_runs_in_one_folder(finished: Path, tmp_path: Path) -> None:
    """The second is refused, the first is not disturbed."""
    work, target = tmp_path / "two", one(finished, f"{MASK}/*.zarr")
    lacking(finished, work, target, "paint", WAIT)
    first = Fault(work, target, start(work, target))
    first.fault_began()
    assert start(work, target).wait(60) != 0
    assert "cannot be locked" in first.log()
    (work / "go").touch()
    first.wait()
    first.only_the_missing_part_was_made(finished)
    assert len(first.calls("paint")) == 1


def test_a_killed_driver_whose_job_runs_on(finished: Path, tmp_path: Path) -> None:
    """On one machine nobody cancels the orphan, but it ends with its driver and writes nothing any more."""
    work, target = tmp_path / "orphan", one(finished, f"{MASK}/*.zarr")
    lacking(finished, work, target, "paint", f"{WAIT}; trap 'touch {work}/ended' EXIT; {real()} \"$@\"; exit")
    killed = Fault(work, target, start(work, target))
    killed.fault_began()
    os.kill(killed.driver.pid, signal.SIGKILL)
    killed.driver.wait()
    assert start(work, target, "--unlock").wait(60) == 0
    again = Fault(work, target, start(work, target))
    again.wait()
    again.only_the_missing_part_was_made(finished)
    (work / "go").touch()
    until((work / "ended").exists, again.log)
    again.only_the_missing_part_was_made(finished)
    assert not list((work / target).parent.glob(".*"))


def test_a_late_orphan_of_an_older_configuration_writes_nothing(finished: Path, tmp_path: Path) -> None:
    """Its driver was killed, the configuration changed, and the new run has finished when it ends at last.

    Were its store there all the same, it would be named and not used.
    """
    work, cut = tmp_path / "orphan", one(finished, "results/recipes/comus/cut/*.zarr")
    masks = one(finished, f"{MASK}/{Path(cut).name}")
    lacking(finished, work, cut, "cut", late(tmp_path / "late.py", "cut"))
    shutil.rmtree(work / masks)
    killed = Fault(work, cut, start(work, masks))
    until((work / "late").exists, killed.log)
    os.kill(killed.driver.pid, signal.SIGKILL)
    killed.driver.wait()
    assert start(work, masks, "--unlock").wait(60) == 0
    config = yaml.safe_load((work / "config.yaml").read_text())
    (work / "config.yaml").write_text(yaml.safe_dump(config | {"cut": {"tau": 0.35}}))
    Fault(work, masks, start(work, masks)).wait()
    new = files(work / cut)
    (work / "go").touch()
    until((work / "ended").exists, killed.log)
    assert f"{cut}: a later job writes it" in (work / "said").read_text()
    assert files(work / cut) == new
    planned = subprocess.run(command(work, masks, "-n"), capture_output=True, text=True, env=environment(), check=True)
    assert "Nothing to be done" in planned.stdout + planned.stderr

    shutil.rmtree(work / cut)
    shutil.copytree(finished / cut, work / cut)
    os.utime(work / cut / ".snakemake_timestamp")
    foreign = Fault(work, masks, start(work, masks))
    assert foreign.driver.wait(120) != 0
    assert f"error: {cut}: not what the configuration asks for now" in foreign.log()
    assert "tau: 0.2" in foreign.log()


def real() -> Path:
    return Path(sys.executable).with_name("maskmill")


def test_a_decoding_process_that_dies(finished: Path, tmp_path: Path) -> None:
    """One line says what happened, and a retry makes the shard."""
    work, target = tmp_path / "worker", one(finished, f"results/features/{feature_sets(finished)[0]}/*.zarr")
    script = tmp_path / "dies.py"
    script.write_text(
        "import os, signal\nfrom maskmill.cli import main\nfrom maskmill.features import run\n"
        "def die(batch, fill): os.kill(os.getpid(), signal.SIGKILL)\nrun.read_batch = die\nmain()\n"
    )
    lacking(finished, work, target, "features", f'exec {sys.executable} {script} "$@"')
    run = Fault(work, target, start(work, target, "--retries", "1"))
    log = run.wait()
    assert "error: a process that decoded images died (DataLoader worker (pid" in log
    assert "Traceback" not in log
    run.only_the_missing_part_was_made(finished)
    assert len(run.calls("features")) == 2


def test_late_files_and_a_clock_that_is_behind(finished: Path, tmp_path: Path) -> None:
    """The output is seen three seconds after its job has ended, and its times are an hour old."""
    work, target = tmp_path / "late", one(finished, f"{MASK}/*.zarr")
    late = (
        f'{real()} "$@"; find {target} -exec touch -d "1 hour ago" {{}} +; mv {target} {work}/late;'
        f" (sleep 3; mv {work}/late {target}) > /dev/null 2>&1 & exit 0"
    )
    lacking(finished, work, target, "paint", late)
    run = Fault(work, target, start(work, target, "--latency-wait", "20"))
    run.wait()
    run.only_the_missing_part_was_made(finished)
    assert len(run.calls("paint")) == 1
    done = subprocess.run(command(work, target, "-n"), capture_output=True, text=True, check=False, env=environment())
    assert "Nothing to be done" in done.stdout + done.stderr

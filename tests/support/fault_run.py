"""Runs that lack one artefact and meet one fault on the way to it: what is missing is made again, and nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

# Stands for `maskmill`: notes every call, and does something bad in the first one of a stage.
WRAPPER = """#!/bin/bash
echo "$(date +%s) ${{SLURM_JOB_ID:-local}} $1" >> {work}/calls
if [ "$1" = {verb} ] && mkdir {work}/bad 2>/dev/null; then
    {fault}
fi
exec {real} "$@"
"""


@dataclass
class Fault:
    """A run with one fault: what is missing at its start, and the driver."""

    work: Path
    target: str
    driver: subprocess.Popen[str]

    def wait(self) -> str:
        """The driver's log, once it has ended well."""
        code, log = self.driver.wait(300), self.log()
        assert code == 0, log
        return log

    def log(self) -> str:
        return (self.work / "driver.log").read_text()

    def calls(self, verb: str) -> list[tuple[int, str]]:
        """(second, SLURM job id) of every call of a stage."""
        rows = [line.split() for line in (self.work / "calls").read_text().splitlines()]
        return [(int(second), job) for second, job, called in rows if called == verb]

    def fault_began(self) -> None:
        until((self.work / "bad").exists, self.log)

    def holds_the_same_bytes(self, before: Path) -> None:
        """The target is that of the finished run."""
        assert files(self.work / self.target) == files(before / self.target)

    def only_the_missing_part_was_made(self, before: Path) -> None:
        """The target holds the bytes of the finished run, and no other artefact was touched."""
        self.holds_the_same_bytes(before)
        kept = [f for f in before.glob("results/**/*") if f.is_file() and not f.is_relative_to(before / self.target)]
        kept = [f for f in kept if "export" not in f.parts]
        touched = [f for f in kept if (self.work / f.relative_to(before)).stat().st_mtime_ns != f.stat().st_mtime_ns]
        beside = (self.work / self.target).parent / "training.json"  # of a student: times, made with it
        assert [f for f in touched if self.work / f.relative_to(before) != beside] == []


def until(condition: Callable[[], object], log: Callable[[], str], seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, log()
        time.sleep(0.2)


def files(path: Path) -> dict[str, bytes]:
    """Relative name -> bytes of a file or a folder."""
    inside = [path] if path.is_file() else [f for f in path.rglob("*") if f.is_file()]
    return {str(f.relative_to(path)): f.read_bytes() for f in inside if f.name != ".snakemake_timestamp"}


def lacking(finished: Path, work: Path, target: str, verb: str, fault: str) -> None:
    """A copy of a finished run without `target`, and a `maskmill` with a fault in its first `verb`."""
    work.mkdir(exist_ok=True)
    for name in ("results", ".snakemake"):
        shutil.copytree(finished / name, work / name, dirs_exist_ok=True, ignore=shutil.ignore_patterns("export"))
    (work / "resources").symlink_to(finished / "resources")
    shutil.copy(finished / "config.yaml", work / "config.yaml")
    path = work / target
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    (work / "bin").mkdir()
    wrapper = WRAPPER.format(work=work, verb=verb, fault=fault, real=Path(sys.executable).with_name("maskmill"))
    (work / "bin/maskmill").write_text(wrapper)
    (work / "bin/maskmill").chmod(0o755)

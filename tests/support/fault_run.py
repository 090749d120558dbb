"""Runs that lack one artefact and meet one fault on the way to it: what is missing is made again, and nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from small_run import ROOT, configuration

from maskmill.recipe.resolve import load

# Stands for `maskmill`: notes every call, and does something bad in the first one of a stage.
WRAPPER = """#!/bin/bash
called=$1
if [ "$1" = --job ]; then called=$3; fi
echo "$(date +%s) ${{SLURM_JOB_ID:-local}} $called" >> {work}/calls
if [ "$called" = {verb} ] && mkdir {work}/bad 2>/dev/null; then
    {fault}
fi
exec {real} "$@"
"""


# Runs a stage whose store is complete, but gets its name only when there is a file `go`.
LATE = """
import os, time
os.environ.pop("MASKMILL_DRIVER")  # as on another machine, where no job sees its driver
from maskmill.cli import main
from maskmill.{stage} import run
from maskmill.store.ragged import RaggedWriter
class Late(RaggedWriter):
    def __exit__(self, *error):
        open("late", "w").close()
        while not os.path.exists("go"):
            time.sleep(0.1)
        return super().__exit__(*error)
run.RaggedWriter = Late
main()
"""

RECIPES = ("comus", "kmeans")  # of the finished run: those that meet faults


@dataclass
class Fault:
    """A run with one fault: what is missing at its start, and the driver."""

    work: Path
    target: str
    driver: subprocess.Popen[str]

    def wait(self) -> str:
        """The driver's log, once it has ended well."""
        code, log = self.driver.wait(600), self.log()
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
        needed = ours(before)
        kept = [f for f in before.glob("results/**/*") if f.is_file() and not f.is_relative_to(before / self.target)]
        kept = [f for f in kept if "export" not in f.parts and not of_others(f, before, needed)]
        assert kept
        touched = [f for f in kept if (self.work / f.relative_to(before)).stat().st_mtime_ns != f.stat().st_mtime_ns]
        beside = (self.work / self.target).parent / "training.json"  # of a student: times, made with it
        assert [f for f in touched if self.work / f.relative_to(before) != beside] == []


def late(script: Path, stage: str) -> str:
    """The fault of a job that ends late: it says why in `said` and makes the file `ended`, in the folder of the run."""
    script.write_text(LATE.format(stage=stage))
    return f'{sys.executable} {script} "$@" 2> said; touch ended; exit'


def until(condition: Callable[[], object], log: Callable[[], str], seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, log()
        time.sleep(0.2)


def files(path: Path) -> dict[str, bytes]:
    """Relative name -> bytes of a file or a folder."""
    inside = [path] if path.is_file() else [f for f in path.rglob("*") if f.is_file()]
    return {str(f.relative_to(path)): f.read_bytes() for f in inside if f.name != ".snakemake_timestamp"}


def feature_sets(finished: Path) -> list[str]:
    """The folders of the tokens that our recipes read, sorted."""
    return ours(finished)["features"]


def ours(finished: Path) -> dict[str, list[str]]:
    """The folders of the results that are one for each recipe, set of tokens or training: the parts that we need."""
    run = load(configuration(finished, *RECIPES), ROOT / "recipes")
    trained = [chosen.weights_slug for recipe in run.recipes.values() for chosen in recipe.trained_sets.values()]
    return {"recipes": [*RECIPES], "features": sorted(run.feature_sets), "pretrain": trained}


def of_others(path: Path, finished: Path, ours: Mapping[str, Sequence[str]]) -> bool:
    """True for what belongs to other recipes of the finished run: their results and what they alone read."""
    parts = path.relative_to(finished).parts
    return len(parts) > 2 and parts[0] == "results" and parts[1] in ours and parts[2] not in ours[parts[1]]


def left_out(finished: Path) -> Callable[[str, list[str]], list[str]]:
    """What `copytree` leaves out: exports, and what belongs to other recipes."""
    needed = ours(finished)

    def names(folder: str, inside: list[str]) -> list[str]:
        return [name for name in inside if name == "export" or of_others(Path(folder) / name, finished, needed)]

    return names


def lacking(finished: Path, work: Path, target: str, verb: str, fault: str) -> None:
    """A copy of a finished run without `target`, and a `maskmill` with a fault in its first `verb`."""
    work.mkdir(exist_ok=True)
    for name in ("results", ".snakemake"):
        shutil.copytree(finished / name, work / name, dirs_exist_ok=True, ignore=left_out(finished))
    (work / "resources").symlink_to(finished / "resources")
    (work / "config.yaml").write_text(yaml.safe_dump(configuration(finished, *RECIPES)))
    path = work / target
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    (work / "bin").mkdir()
    wrapper = WRAPPER.format(work=work, verb=verb, fault=fault, real=Path(sys.executable).with_name("maskmill"))
    (work / "bin/maskmill").write_text(wrapper)
    (work / "bin/maskmill").chmod(0o755)

"""What does Snakemake itself cost for many shards? Plans and runs the recipe comus over shards of one tiny image.

    python bench/dag.py [--shards 100,1000,2000] [--run 100,1000] [--recipe comus] [--temporary]

The stage inputs is really run (16 x 16 pixels, shard_size 1); then `snakemake --dry-run` plans everything after it, in
a process of its own. `--run` does the same with jobs that do nothing: a script called `maskmill`, first in PATH,
creates what a job's options declare, so what is left is Snakemake. Afterwards it plans the finished run once more.
10 000 shards are a stress case: `--shards 10000`. Prints the tables of docs/benchmarks.md. Planning is one thread: on
an idle machine wall and CPU seconds are the same.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/support"))
from empty_run import nothing, prepare
from small_run import command, environment, jobs


class Measured(NamedTuple):
    """What snakemake said, its exit code, wall seconds, CPU seconds, peak MB of its process."""

    said: str
    code: int
    wall: float
    cpu: float
    peak: float


def measure(work: Path, variables: dict[str, str], *options: str) -> Measured:
    """Plain snakemake in a process of its own; times and memory are its and those of what it started."""
    log = work / "bench.log"
    start = time.perf_counter()
    with log.open("w") as file:
        process = subprocess.Popen(command(work, *options), stdout=file, stderr=subprocess.STDOUT, env=variables)
        _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    return Measured(log.read_text(), process.returncode, wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def checked(done: Measured) -> Measured:
    """The same, if it ended well."""
    if done.code:
        raise SystemExit(done.said[-3000:])
    return done


def total(done: Measured) -> int:
    """Jobs of the table that it printed."""
    return jobs(subprocess.CompletedProcess([], done.code, done.said, "")).get("total", 0)


def exponent(rows: Sequence[tuple[int, float]]) -> str:
    """The power of the number of shards by which CPU seconds grow from the row before."""
    if len(rows) < 2:
        return ""
    (n, before), (m, now) = rows[-2:]
    return f"{math.log(now / before) / math.log(m / n):.2f}"


def main() -> None:
    """Print one table of plans, and one of runs of empty jobs."""
    numbers = lambda text: [int(part) for part in text.split(",") if part]  # noqa: E731
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", type=numbers, default=[100, 1000, 2000], help="plan this many")
    parser.add_argument("--run", type=numbers, default=[100], help="run this many with empty jobs")
    parser.add_argument("--recipe", default="comus")
    parser.add_argument("--temporary", action="store_true", help="with features: {keep: false}")
    given = parser.parse_args()
    sets = {"features": {"keep": False}} if given.temporary else {}
    print("| shards | jobs | plan: wall s | CPU s | peak MB | exponent |\n|---|---|---|---|---|---|", flush=True)
    rows: list[tuple[int, float]] = []
    for shards in given.shards:
        with tempfile.TemporaryDirectory() as folder:
            work = Path(folder) / "work"
            prepare(Path(folder), shards, recipes=[given.recipe], **sets)
            done = checked(measure(work, environment(), "--dry-run"))
            rows.append((shards, done.cpu))
            times = f"{done.wall:.1f} | {done.cpu:.1f} | {done.peak:.0f}"
            print(f"| {shards} | {total(done)} | {times} | {exponent(rows)} |", flush=True)
    print("\n| shards | empty jobs | run: wall s | CPU s | CPU ms a job | peak MB | plan of the finished run: CPU s |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for shards in given.run:
        with tempfile.TemporaryDirectory() as folder:
            work = Path(folder) / "work"
            prepare(Path(folder), shards, recipes=[given.recipe], **sets)
            variables = nothing(Path(folder))
            done = checked(measure(work, variables))
            again = checked(measure(work, variables, "--dry-run"))
            finished = f"{again.cpu:.1f}" if "Nothing to be done" in again.said else "NOT FINISHED"
            times = f"{done.wall:.1f} | {done.cpu:.1f} | {1000 * done.cpu / total(done):.0f} | {done.peak:.0f}"
            print(f"| {shards} | {total(done)} | {times} | {finished} |", flush=True)


if __name__ == "__main__":
    main()

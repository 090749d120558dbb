"""What does Snakemake itself cost for many shards? Plans and runs the recipe comus over shards of one tiny image.

    python bench/dag.py [--shards 100,1000,2000] [--run 100,1000] [--recipe comus] [--temporary]

The stage inputs is really run (16 x 16 pixels, shard_size 1); then `snakemake --dry-run` plans everything after it, in a
process of its own. `--run` does the same with jobs that do nothing: a script called `maskmill`, first in PATH, creates
what a job's options declare, so what is left is Snakemake. Afterwards it plans the finished run once more. 10 000 shards
are a stress case: `--shards 10000`. Prints the tables of docs/benchmarks.md.
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

import numpy as np
import yaml
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from small_run import command, environment, jobs

# Creates what the options of a verb declare: a folder for a store, a file for the rest. What exists is an input.
NOTHING = """#!/bin/sh
while [ $# -gt 1 ]; do
    case "$1" in
        --out | --table | --vectors | --selection | --timing | --confidence)
            [ -e "$2" ] || case "$2" in
                *.zarr | */export) mkdir "$2" && : > "$2/zarr.json" ;;
                *.*) : > "$2" ;;
            esac ;;
    esac
    shift
done
"""


def prepare(root: Path, shards: int, recipe: str, keep: bool) -> Path:
    """A working folder in which the stage inputs is done."""
    images, work = root / "images", root / "work"
    rng = np.random.default_rng(0)
    for i in range(shards):
        folder = images / f"{i // 1000:03d}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(folder / f"{i:06d}.png")
    work.mkdir()
    config = {"images": str(images), "recipes": [recipe], "preset": "small", "inputs": {"shard_size": 1}}
    if not keep:
        config["features"] = {"keep": False}
    (work / "config.yaml").write_text(yaml.safe_dump(config))
    done = measure(work, environment(), "results/inputs/manifest.parquet")
    if done[0].returncode:
        raise SystemExit(done[0].stdout)
    return work


def measure(
    work: Path, variables: dict[str, str], *options: str
) -> tuple[subprocess.CompletedProcess[str], float, float]:
    """Plain snakemake: what it said, seconds, and peak MB of its process or of the largest that it started."""
    log = work / "bench.log"
    start = time.perf_counter()
    with log.open("w") as file:
        process = subprocess.Popen(command(work, *options), stdout=file, stderr=subprocess.STDOUT, env=variables)
        _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    done = subprocess.CompletedProcess(process.args, process.returncode, log.read_text(), "")
    return done, seconds, usage.ru_maxrss / 1024


def empty_jobs(work: Path) -> dict[str, str]:
    """The environment in which `maskmill` does nothing."""
    folder = work / "bin"
    folder.mkdir(exist_ok=True)
    (folder / "maskmill").write_text(NOTHING)
    (folder / "maskmill").chmod(0o755)
    base = environment()
    return base | {"PATH": f"{folder}:{base['PATH']}"}


def exponent(rows: Sequence[tuple[int, float]]) -> str:
    """The power of the number of shards by which seconds grow from the row before."""
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
    print("| shards | jobs | plan s | peak MB | exponent |\n|---|---|---|---|---|", flush=True)
    rows: list[tuple[int, float]] = []
    for shards in given.shards:
        with tempfile.TemporaryDirectory() as folder:
            work = prepare(Path(folder), shards, given.recipe, not given.temporary)
            done, seconds, peak = measure(work, environment(), "--dry-run")
            if done.returncode:
                raise SystemExit(done.stdout[-3000:])
            rows.append((shards, seconds))
            total = jobs(done)["total"]
            print(f"| {shards} | {total} | {seconds:.1f} | {peak:.0f} | {exponent(rows)} |", flush=True)
    print("\n| shards | empty jobs | run s | ms a job | peak MB | plan of the finished run s |")
    print("|---|---|---|---|---|---|", flush=True)
    for shards in given.run:
        with tempfile.TemporaryDirectory() as folder:
            work = prepare(Path(folder), shards, given.recipe, not given.temporary)
            variables = empty_jobs(work)
            done, seconds, peak = measure(work, variables)
            total = jobs(done).get("total", 0)
            if done.returncode or not total:
                raise SystemExit(done.stdout[-3000:])
            after, again, _ = measure(work, variables, "--dry-run")
            finished = f"{again:.1f}" if "Nothing to be done" in after.stdout else "NOT FINISHED"
            each = 1000 * seconds / total
            print(f"| {shards} | {total} | {seconds:.1f} | {each:.0f} | {peak:.0f} | {finished} |", flush=True)


if __name__ == "__main__":
    main()

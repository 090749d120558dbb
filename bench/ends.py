"""What do both ends of the flow cost for very many files, as single jobs and in parts? See docs/scaling.md.

    python bench/ends.py [--files 100000] [--parts 10] [--jobs 2] [--only inputs] [--single-only]

PNGs of 8 x 8 pixels, hard links to a few files, and masks of 8 x 8 cells with three clusters: what is measured is the
cost of a file, not of its pixels. Every job is a process of its own, as in the workflow; `--jobs` of the jobs of parts
run at a time. Columns: wall seconds of all jobs of the step, their CPU seconds, CPU microseconds a file, and the most
memory that one process took.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from inputs import draw

INPUTS = {"shard_size": 10_000, "max_rejected": 0.01, "verify": "full"}
CLUSTERS = 3


def step(name: str, files: int, commands: Sequence[Sequence[str]], jobs: int) -> None:
    """Run the commands, `jobs` at a time, and print their row."""
    used: list[tuple[float, float]] = []
    lock = threading.Lock()

    def one(command: Sequence[str]) -> None:
        process = subprocess.Popen(
            [sys.executable, "-m", "maskmill", *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{name}: exit code {process.returncode}")
        with lock:
            used.append((usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024))

    start = time.perf_counter()
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(one, commands))
    wall, cpu = time.perf_counter() - start, sum(each for each, _ in used)
    peak = max(peak for _, peak in used)
    print(f"| {name} | {len(commands)} | {wall:.1f} | {cpu:.1f} | {1e6 * cpu / files:.0f} | {peak:.0f} |", flush=True)


def inputs(root: Path, files: int, parts: int, jobs: int, single_only: bool) -> Path:
    """Rows of the stage inputs; the manifest."""
    images = root / "images"
    draw(images, files)

    def written(folder: Path) -> list[str]:
        names = {"manifest": "manifest.parquet", "rejected": "rejected.csv", "classes": "classes.json"}
        return [word for key, name in names.items() for word in (f"--{key}", str(folder / name))]

    source = ["--images", str(images), "--frames", str(root / "frames")]
    params = ["--params", json.dumps(INPUTS)]
    step("inputs, single job", files, [["inputs", *source, *params, *written(root / "one"), "--threads", "2"]], 1)
    if not single_only:
        listing, checked = root / "many/listing.parquet", root / "many/checked"
        told = ["--params", json.dumps(INPUTS | {"parts": parts})]
        step("inputs_list", files, [["inputs-list", *source, *told, "--out", str(listing)]], 1)
        names = [f"p{i:04d}" for i in range(parts)]
        checks = [
            ["inputs-check", "--listing", str(listing), "--part", n, *params, "--out", str(checked / f"{n}.parquet")]
            for n in names
        ]
        step("inputs_check", files, checks, jobs)
        told = ["--listing", str(listing), "--checked", str(checked)]
        step("inputs of parts", files, [["inputs", *source, *params, *told, *written(root / "many")]], 1)
        same(root / "one/manifest.parquet", root / "many/manifest.parquet")
    return root / "one/manifest.parquet"


def export(root: Path, manifest: Path, files: int, jobs: int, single_only: bool) -> None:
    """Rows of the stage export."""
    from maskmill.store.manifest import read_shard, read_shards
    from maskmill.store.ragged import RaggedWriter

    rng = np.random.default_rng(0)
    for shard in read_shards(manifest):
        attrs = {"clusters": CLUSTERS, "ignore": 255}
        with RaggedWriter(root / f"masks/{shard}.zarr", "masks", dtype="uint8", attrs=attrs) as out:
            for row in read_shard(manifest, shard):
                out.append(row.id, rng.integers(0, CLUSTERS + 1, (2, 2), dtype=np.uint8).repeat(4, 0).repeat(4, 1))
    told = ["--manifest", str(manifest), "--params", "{}", "--recipe", "kmeans"]
    segmenter = ["--segmenter", json.dumps({"feature_sets": {}, "refine": {"method": "none"}, "upsample": 1})]
    masks = ["--masks", str(root / "masks")]
    step("export, single job", files, [["export", *masks, *told, *segmenter, "--out", str(root / "one/export")]], 1)
    if single_only:
        return
    parts = root / "many/exported"
    shards = [
        ["export-shard", "--masks", str(root / f"masks/{shard}.zarr"), *told, "--out", str(parts / shard)]
        for shard in read_shards(manifest)
    ]
    step("export_shard", files, shards, jobs)
    index = ["export", *masks, *told, *segmenter, "--parts", str(parts), "--out", str(root / "many/export")]
    step("export of parts", files, [index], 1)
    same(root / "one/export/coco.json", root / "many/export/coco.json")


def same(one: Path, other: Path) -> None:
    """Both files have the same bytes."""
    if one.read_bytes() != other.read_bytes():
        raise SystemExit(f"{one} and {other} differ")


def main() -> None:
    """Print one row a step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--parts", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", choices=["inputs", "export"], default="export", help="export needs the inputs first")
    parser.add_argument("--single-only", action="store_true", help="for versions that have no parts")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        print("| step | jobs | wall s | CPU s | CPU us a file | peak MB |\n|---|---|---|---|---|---|", flush=True)
        manifest = inputs(root, given.files, given.parts, given.jobs, given.single_only)
        if given.only != "inputs":
            export(root, manifest, given.files, given.jobs, given.single_only)


if __name__ == "__main__":
    main()

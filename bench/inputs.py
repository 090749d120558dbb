"""What does the stage inputs cost for very many files? Prints the table of docs/inputs.md.

    python bench/inputs.py [--files 20000] [--threads 2] [--verify full]

PNGs of 8 x 8 pixels in folders of 1000, each folder with one picture and hard links to it, so that what is measured is
the cost of a file, not of its pixels. Every step runs in a process of its own: the fingerprint that Snakemake takes of
the folder at every start, the stage, and the list of shards that every plan reads. bench/ends.py has the same in parts.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

FOLDER = 1000  # files each
FINGERPRINT = "import sys; from maskmill.images.listing import listing_fingerprint as f; print(f(sys.argv[1], None))"
SHARDS = "import sys; from maskmill.store.manifest import read_shards as f; print(len(f(sys.argv[1])))"


def draw(root: Path, files: int) -> None:
    """`files` small images below `root`."""
    for start in range(0, files, FOLDER):
        folder = root / f"{start // FOLDER:04d}"
        folder.mkdir(parents=True)
        first = folder / f"{start:07d}.png"
        picture = np.random.default_rng(start).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(picture).save(first)
        for i in range(start + 1, min(start + FOLDER, files)):
            os.link(first, folder / f"{i:07d}.png")


def measure(name: str, files: int, *command: str) -> None:
    """Run a command and print its row: wall seconds, CPU seconds, microseconds a file, peak MB of one process."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    wall, cpu = time.perf_counter() - start, usage.ru_utime + usage.ru_stime
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{name}: exit code {process.returncode}")
    peak = usage.ru_maxrss / 1024
    print(f"| {name} | {files} | {wall:.1f} | {cpu:.1f} | {1e6 * cpu / files:.0f} | {peak:.0f} |", flush=True)


def main() -> None:
    """Print one row a step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--verify", choices=["full", "header"], default="full")
    given = parser.parse_args()
    settings = {"shard_size": max(1, given.files // 200), "max_rejected": 0.01, "verify": given.verify}
    params = json.dumps(settings | {"frame_step": 1, "max_images": None})
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        images, out = root / "images", root / "out"
        draw(images, given.files)
        print("| step | files | wall s | CPU s | CPU us a file | peak MB |\n|---|---|---|---|---|---|", flush=True)
        measure("fingerprint of the folder", given.files, "-c", FINGERPRINT, str(images))
        measure(
            f"stage inputs, {given.threads} threads", given.files, "-m", "maskmill", "inputs",
            "--images", str(images), "--params", params, "--threads", str(given.threads), "--frames", str(out / "f"),
            "--manifest", str(out / "manifest.parquet"), "--rejected", str(out / "rejected.csv"),
            "--classes", str(out / "classes.json"),
        )  # fmt: skip
        measure("list of shards", given.files, "-c", SHARDS, str(out / "manifest.parquet"))


if __name__ == "__main__":
    main()

"""Runs whose jobs do nothing: what is left is the workflow itself. Only the stage inputs is real: tiny images."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from small_run import environment, snakemake

# Creates what the options of a verb declare: a folder for a store, a file for the rest. What exists is an input.
NOTHING = """#!/bin/sh
while [ $# -gt 1 ]; do
    case "$1" in
        --out | --table | --vectors | --selection | --timing | --confidence | \\
        --margins | --places | --held | --document | --pairs)
            [ -e "$2" ] || case "$2" in
                *.zarr | */export) mkdir "$2" && : > "$2/zarr.json" ;;
                *.*) : > "$2" ;;
            esac ;;
    esac
    shift
done
"""


def prepare(root: Path, shards: int, **config: Any) -> dict[str, Any]:
    """A working folder `root`/work in which the stage inputs is done; the configuration."""
    images = root / "images"
    rng = np.random.default_rng(0)
    for i in range(shards):
        folder = images / f"{i // 1000:03d}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(folder / f"{i:06d}.png")
    config = {
        "images": str(images), "preset": "small", "inputs": {"shard_size": 1}, "cluster": {"clusters": 2},
    } | config  # fmt: skip
    done = snakemake(root / "work", config, "results/inputs/manifest.parquet")
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    return config


def nothing(root: Path) -> dict[str, str]:
    """The environment in which `maskmill` does nothing."""
    folder = root / "bin"
    folder.mkdir(exist_ok=True)
    (folder / "maskmill").write_text(NOTHING)
    (folder / "maskmill").chmod(0o755)
    return environment() | {"PATH": f"{folder}:{environment()['PATH']}"}


def blocks(done: subprocess.CompletedProcess[str]) -> list[tuple[str, dict[str, str]]]:
    """(rule, {input, output, wildcards, ...: text}) of every job that Snakemake announced, in order."""
    found: list[tuple[str, dict[str, str]]] = []
    for line in (done.stdout + done.stderr).splitlines():
        if head := re.fullmatch(r"(?:local)?rule (\w+):", line):
            found.append((head[1], {}))
        elif found and (pair := re.fullmatch(r"    (\w+): (.*)", line)):
            found[-1][1][pair[1]] = pair[2]
    return found

"""A small whole run of the workflow: pictures drawn here, its configuration, and Snakemake as a user starts it."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from maskmill.predict.run import Wanted, predict

ROOT = Path(__file__).parents[2]
SMALL = {
    "preset": "small",
    "features": {
        "grouping": {"size": {"square": 224}},
        "semantic": {"size": {"square": 128}},
    },
    "reduce": {"method": "pca", "dimensions": 4},  # a dozen regions vary in fewer directions than COMUS keeps
    "cluster": {"clusters": 3},
    "rounds": {"count": 2, "steps": 60},
    "inputs": {"shard_size": 6},
    "report": {"gallery": 6, "typical": 3},
}

ODD_NAMES = {  # of the second half of the pictures, without suffix
    6: 'set 0/it\'s "6" $(touch hacked) `touch hacked`; touch hacked #&|',
    7: "-set; rm/-7 [a]*? {braces} %s \\n",
    8: "set 0/new\nline\ttab 🚲 写真",
    9: "set 1/<img src=x onerror=alert(1)>",
    10: "set 0/e\u0301",  # two code points, and
    11: "set 0/\u00e9",  # the same text in one
}
TOKEN = "hf_made-up-for-the-tests-0123456789"  # in the environment of every run, never in a file

BASELINE = SMALL | {"recipes": ["kmeans"], "features": {"semantic": {"size": {"square": 128}}}}


def draw(path: Path, seed: int) -> np.ndarray:
    """A photo-like picture with one textured disc or square on a gradient; returns its label (0, 1 disc, 2 square)."""
    rng = np.random.default_rng(seed)
    h, w = 150 + 10 * (seed % 4), 180
    y, x = np.mgrid[:h, :w]
    picture = np.stack([60 + 80 * y / h, 110 + 60 * x / w, 150 - 60 * y / h], -1) + rng.normal(0, 6, (h, w, 3))
    cy, cx, r = h * rng.uniform(0.4, 0.6), w * rng.uniform(0.35, 0.65), 40
    disc = (y - cy) ** 2 + (x - cx) ** 2 < r**2
    square = (abs(y - cy) < r) & (abs(x - cx) < r)
    inside = disc if seed % 2 else square
    picture[inside] = ([220, 60, 40] if seed % 2 else [240, 220, 60]) + rng.normal(0, 12, (inside.sum(), 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(path)
    return np.where(inside, 1 if seed % 2 else 2, 0).astype(np.uint8)


def snakemake(work: Path, config: dict[str, Any], *options: str) -> subprocess.CompletedProcess[str]:
    """Plain snakemake in `work`, as a user runs it."""
    work.mkdir(parents=True, exist_ok=True)
    (work / "config.yaml").write_text(yaml.safe_dump(config))
    return subprocess.run(command(work, *options), capture_output=True, text=True, check=False, env=environment())


def beside(finished: Path, folder: Path) -> Path:
    """`folder`, in which Snakemake sees what the finished run left: what is planned there leaves the run as it is."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("results", "resources", "logs", "benchmarks", ".snakemake"):
        if not (folder / name).exists():
            (folder / name).symlink_to(finished / name)
    return folder


def configuration(finished: Path, *recipes: str) -> dict[str, Any]:
    """The configuration of the finished run; of some of its recipes, where they are named."""
    config: dict[str, Any] = yaml.safe_load((finished / "config.yaml").read_text())
    chosen = [path for path in config["recipes"] if not recipes or Path(path).stem in recipes]
    return config | {"recipes": chosen}


def command(work: Path, *options: str, profile: Path | None = None) -> list[str]:
    """Plain snakemake, with the default profile on two cores or with the given profile."""
    where = ["--profile", str(profile)] if profile else ["--profile", str(ROOT / "profiles/default"), "--cores", "2"]
    started = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(work)]
    return [*started, *where, *options]


def site(folder: Path, resources: dict[str, dict[str, Any]]) -> Path:
    """The SLURM profile as a site would change it: its partitions, threads that its nodes have, quicker checks.

    The site is that of slurm_cluster.py.
    """
    profile = yaml.safe_load((ROOT / "profiles/slurm/profile.yaml").read_text())
    profile["default-resources"]["slurm_partition"] = "main"
    profile["set-threads"] = {"features": 2, "rounds_train": 2}
    for rule in ("features", "rounds_train", "cluster_fit"):
        profile["set-resources"][rule]["slurm_partition"] = "gpu"
    for rule, values in resources.items():
        profile["set-resources"][rule] = profile["set-resources"].get(rule, {}) | values
    profile |= {"slurm-init-seconds-before-status-checks": 3, "latency-wait": 20}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "profile.yaml").write_text(yaml.safe_dump(profile))
    return folder


def environment() -> dict[str, str]:
    return os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HF_TOKEN": TOKEN}


def jobs(done: subprocess.CompletedProcess[str]) -> dict[str, int]:
    """Rule -> number of jobs of the last job table that Snakemake printed."""
    table: dict[str, int] = {}
    for line in (done.stdout + done.stderr).splitlines():
        words = line.split()
        if words[:2] == ["job", "count"]:
            table = {}
        elif len(words) == 2 and words[1].isdigit():
            table[words[0]] = int(words[1])
    return table


def planned(work: Path, config: dict[str, Any]) -> dict[str, int]:
    """Rule -> number of jobs that a run in `work` would start."""
    done = snakemake(work, config, "--dry-run")
    assert done.returncode == 0, done.stdout + done.stderr
    return jobs(done)


def masks(folder: Path) -> dict[str, str]:
    """Mask store -> hash of the names and bytes of its value files, of every mask store of a run."""
    found = {}
    for store in sorted(folder.glob("results/recipes/*/seed*/round*/masks/*.zarr")):
        total = hashlib.sha256()
        for file in sorted(file for file in (store / "values/c").rglob("*") if file.is_file()):
            total.update(str(file.relative_to(store)).encode() + file.read_bytes())
        found[str(store.relative_to(folder))] = total.hexdigest()
    return found


def predicted_otherwise(run: Path, images: Path, recipe: str, out: Path) -> float:
    """Mean share of the pixels that `maskmill predict` sees otherwise than the run that has exported the recipe."""
    export = run / f"results/recipes/{recipe}/seed0/export"
    made = predict([images], export / "segmenter", out, Wanted(overlays=False, threads=1, device="cpu"))
    shares = []
    for path in sorted((export / "masks").rglob("*.png")):
        new = out / path.relative_to(export / "masks")
        shares.append((np.asarray(Image.open(new)) != np.asarray(Image.open(path))).mean())
    assert (len(shares), made.failed) == (made.masks, {})
    return float(np.mean(shares))

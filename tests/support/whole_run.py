"""The one whole run of the tests: every shipped recipe in small, and recipes that are combined in other ways."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from job_server import serving
from PIL import Image
from small_run import ODD_NAMES, ROOT, command, draw, environment
from tiny_recipes import NAMES, write

# Of recipes that we do not ship: a student above a foreground, and a cut that sees colours as well.
OWN: dict[str, Any] = {
    "features": {
        "grouping": {"backbone": "vit_small_focus", "facet": "key", "size": {"square": 224}},
        "semantic": {"backbone": "efficientnet_lite0", "size": {"square": 128}},
    },
    "regions": {"features": "semantic", "pool": "token"},
    "foreground": {"features": "grouping", "clusters": 12},
    "cluster": {"method": "kmeans", "clusters": 2},
    "rounds": {"count": 1, "features": ["semantic"], "steps": 20},
}
COLOURED: dict[str, Any] = {
    "features": OWN["features"] | {"small": {"backbone": "colour", "stride": 14, "size": {"square": 224}}},
    "cut": {
        "features": "grouping", "method": "spectral", "vectors": 5, "segments": 4, "colour": "small",
        "colour_weight": 10,
    },
    "regions": {"features": "semantic", "pool": "mean"},
    "cluster": {"method": "kmeans", "clusters": 3},
}  # fmt: skip

# A head that trains its backbone sees photos instead of stored tokens.
UNFROZEN: dict[str, Any] = {
    "features": {"semantic": OWN["features"]["semantic"]},
    "adapt": {
        "features": "semantic", "method": "picie", "unfreeze": True, "steps": 4, "batch_size": 4, "dimensions": 8,
        "hidden": 8,
    },
    "regions": {"features": "codes", "pool": "token"},
    "cluster": {"method": "prototypes", "clusters": 3},
}  # fmt: skip
# What differs between seeds: a head, and a number of clusters that comes from the data.
SEEDED = ("stego", "leiden", "hdbscan")
READOUTS: dict[str, Any] = {
    "linear_probe": True,
    "linear_probe_online": {"steps": 20},
    "retrieval": True,
    "segment_retrieval": {"parts": 3},
}
SEEDS: dict[str, Any] = {"seeds": [0, 1], "evaluate": {"objects": True, "candidates": {"steps": 20}, **READOUTS}}
# The configuration that is shipped.
DEMO: dict[str, Any] = yaml.safe_load((ROOT / "config.yaml").read_text())


def draw_photos(folder: Path) -> None:
    """images/, labels/ and depth/ of twelve pictures, half of them with names that careless code trips over."""
    for i in range(12):
        name = f"{ODD_NAMES.get(i, f'set {i % 2}/im{i:02d}')}.png"
        label = draw(folder / "images" / name, i)
        out = folder / "labels" / name
        out.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(label).save(out)
        far = folder / "depth" / name
        far.parent.mkdir(parents=True, exist_ok=True)
        rows = np.linspace(250, 120, label.shape[0])[:, None]  # things stand before a ground that comes nearer
        Image.fromarray(np.where(label > 0, 40, rows).astype(np.uint8)).save(far)


def configure(photos: Path, recipes: Path) -> dict[str, Any]:
    """The configuration of the run; its recipes are written to a folder."""
    paths = {name: write(recipes, name) for name in NAMES}
    for name, body in {"own": OWN, "coloured": COLOURED, "unfrozen": UNFROZEN}.items():
        (recipes / f"{name}.yaml").write_text(yaml.safe_dump(body | {"presets": {"tiny": {}}}))
        paths[name] = str(recipes / f"{name}.yaml")
    return {
        "images": str(photos / "images"),
        "labels": str(photos / "labels"),
        "recipes": [paths[name] for name in sorted(paths)],
        "preset": ["small", "tiny"],
        "inputs": {"shard_size": 6, "depth": str(photos / "depth")},
        "evaluate": {"objects": True, "candidates": {"steps": 20}},
        "report": {"gallery": 6, "typical": 3},
    }


def make(work: Path, photos: Path) -> None:
    """The whole run in `work`: first the recipes that are asked about their seeds, with two of them, then all.

    The report of the first part is kept as `seeds.html`. Jobs are forked from one process.
    """
    config = configure(photos, work.parent / "recipes")
    with serving() as folder:
        run(
            work,
            config | SEEDS | {"recipes": [path for path in config["recipes"] if Path(path).stem in SEEDED]},
            folder,
        )
        shutil.copy(work / "results/report.html", work / "seeds.html")
        run(work, config, folder)


def run(work: Path, config: dict[str, Any], programs: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Snakemake with the configuration in `work` and the programs of a folder; raises where it fails."""
    work.mkdir(parents=True, exist_ok=True)
    (work / "config.yaml").write_text(yaml.safe_dump(config))
    variables = environment()
    variables["PATH"] = f"{programs}:{variables['PATH']}"
    done = subprocess.run(command(work, *options), capture_output=True, text=True, check=False, env=variables)
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    return done

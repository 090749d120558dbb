"""Every recipe on the labelled sets, in one table a set: mIoU over seeds, CPU seconds, and what was chosen where.

    python bench/recipes.py --data DATA --work FOLDER [--sets camvid ...] [--recipes kmeans ...] [--without dino ...]
                            [--limit 100] [--seeds 0 1 2] [--preset small] [--side 448] [--cores 2]

Every recipe runs with its preset and as many clusters as the set has classes; recipes with a background of their own
get one fewer. `--side` gives the feature set `semantic` of all recipes one short side, so that they cluster tokens of
the same photos; without it each has the size of its preset. Scores are those of the last round. The protocol is that
of the set (bench/configs/choices.yaml: Hungarian on IoU where it scores objects and background, else on counts), and
many-to-one beside it. A recipe that fails leaves an empty row, and the others go on.

CPU seconds are those that Snakemake measured: of the recipe's own jobs, all seeds together, and of the features that
it reads, which recipes share. Jobs of less than a few seconds are not measured and count as nothing.

A row is `chosen here` where a setting of the recipe was chosen with labels of this set in sight
(bench/configs/recipes.yaml), otherwise untouched; the table is sorted, untouched rows first.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from _photos import ROOT, data_folder
from choose import CHOICES

from maskmill.recipe.model import Stage
from maskmill.recipe.resolve import load

FACTS = ROOT / "bench/configs/recipes.yaml"


@dataclass(frozen=True)
class Row:
    """A recipe on a set: scores in percent by protocol and seed, CPU seconds, and what was chosen on the set."""

    recipe: str
    scores: Mapping[str, Sequence[float]]
    clusters: int | None
    own: float
    features: float
    chosen: str | None

    def key(self, protocol: str) -> tuple[bool, float]:
        """For sorting: untouched rows first, the best mean first."""
        found = self.scores.get(protocol, ())
        return self.chosen is not None, -float(np.mean(found)) if len(found) else np.inf


def counted(sections: Mapping[str, Any]) -> bool:
    """Whether the recipe's clustering can be told the number of clusters."""
    stage = Stage.of("cluster", dict(sections))
    return "clusters" in type(stage.params).model_fields


def recipe_of(name: str, preset: str, classes: int) -> dict[str, Any]:
    """A shipped recipe whose preset `table` asks for as many clusters as a set has classes."""
    base = yaml.safe_load((ROOT / f"recipes/{name}.yaml").read_text())
    objects = "cut" in base and base.get("regions", {}).get("pool") != "token"
    background = (objects or "foreground" in base) and name not in _facts()["no_background"]
    chosen: dict[str, Any] = base.get("cluster", {}) | base.get("presets", {}).get(preset, {}).get("cluster", {})
    table: dict[str, Any] = {}
    if counted(chosen):
        table["cluster"] = {"clusters": max(2, classes - 1) if background else classes}
    return base | {"presets": {preset: {}} | base.get("presets", {}) | {"table": table}}


def _facts() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(FACTS.read_text())
    return found


def configured(name: str, recipes: Sequence[str], asked: argparse.Namespace) -> dict[str, Any]:
    """The configuration of a run on one set; its recipes are written beside it."""
    facts, work = yaml.safe_load(CHOICES.read_text())["sets"][name], Path(asked.work) / name
    work.mkdir(parents=True, exist_ok=True)
    for recipe in recipes:
        (work / f"{recipe}.yaml").write_text(yaml.safe_dump(recipe_of(recipe, asked.preset, facts["classes"])))
    data, protocol = Path(asked.data) / name, protocol_of(name)
    config: dict[str, Any] = {
        "images": str(data / "images"), "labels": str(data / "masks"), "preset": [asked.preset, "table"],
        "recipes": [str((work / f"{recipe}.yaml").resolve()) for recipe in recipes], "seeds": asked.seeds,
        "inputs": {"max_images": asked.limit},
        "evaluate": {"protocols": [protocol, "many_to_one"], "candidates": False} | facts.get("evaluate", {}),
    }  # fmt: skip
    if asked.side:
        config["features"] = {"semantic": {"size": {"short_side": asked.side}}}
    return config


def protocol_of(name: str) -> str:
    """Hungarian on the IoU where background and objects are scored, as published for such sets; else on counts."""
    return "hungarian_iou" if name in _facts()["objects"] else "hungarian_counts"


def rows_of(work: Path, name: str, config: Mapping[str, Any]) -> list[Row]:
    """What a run has left, one row a recipe."""
    run, chosen = load(config, ROOT / "recipes"), _facts()["chosen"]
    rows = []
    for recipe in run.recipes.values():
        scores: dict[str, list[float]] = {}
        clusters = None
        for seed in run.config.seeds:
            folder = work / f"results/recipes/{recipe.name}/seed{seed}"
            path = folder / f"round{recipe.round_count}/scores.json"
            found = json.loads(path.read_text()) if path.is_file() else {"scores": []}
            clusters = found.get("clusters", clusters)
            for each in found["scores"]:
                scores.setdefault(each["protocol"]["name"], []).append(100 * float(each["miou"]))
        sets = [chosen_set.slug for chosen_set in recipe.features.values()]
        own, features = (
            cpu_seconds(work / "benchmarks", recipe.name),
            sum(cpu_seconds(work / "benchmarks", s) for s in sets),
        )
        rows.append(Row(recipe.name, scores, clusters, own, features, chosen.get(recipe.name, {}).get(name)))
    return rows


def cpu_seconds(folder: Path, owner: str) -> float:
    """CPU seconds of all jobs of a recipe, or of a feature set by its slug."""
    total = 0.0
    for path in (*folder.glob(f"*/{owner}/**/*.tsv"), *folder.glob(f"*/{owner}.tsv")):
        with path.open(newline="") as file:
            total += sum(_cpu(row) for row in csv.DictReader(file, delimiter="\t"))
    return total


def _cpu(row: Mapping[str, str]) -> float:
    try:
        return float(row["cpu_time"])
    except ValueError:  # NA: too short to be measured
        return 0.0


def table(name: str, rows: Sequence[Row]) -> str:
    """One set as Markdown."""
    protocol = protocol_of(name)
    lines = [
        f"| {name} | K | {protocol} | many_to_one | CPU s | CPU s of features | |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    for row in sorted(rows, key=lambda row: row.key(protocol)):
        cells = [spread(row.scores.get(each, ())) for each in (protocol, "many_to_one")]
        mark = f"chosen here: {row.chosen}" if row.chosen else "untouched"
        seconds = f"{row.own:.0f} | {row.features:.0f}"
        lines.append(f"| `{row.recipe}` | {row.clusters or ''} | {' | '.join(cells)} | {seconds} | {mark} |")
    return "\n".join(lines)


def spread(scores: Sequence[float]) -> str:
    """Mean and sample standard deviation."""
    if not scores:
        return ""
    return f"{np.mean(scores):.1f}" + (f" ± {np.std(scores, ddof=1):.1f}" if len(scores) > 1 else "")


def run_set(name: str, recipes: Sequence[str], asked: argparse.Namespace) -> list[Row]:
    """All recipes on a set."""
    config, work = configured(name, recipes, asked), Path(asked.work) / name
    (work / "config.yaml").write_text(yaml.safe_dump(config))
    run = load(config, ROOT / "recipes")
    wanted = [
        f"results/recipes/{recipe.name}/seed{seed}/round{recipe.round_count}/scores.json"
        for recipe in run.recipes.values() for seed in asked.seeds
    ]  # fmt: skip
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(work)]
    command += ["--profile", str(ROOT / "profiles/default"), "--keep-going", "--cores", str(asked.cores), *wanted]
    with (work / "snakemake.log").open("w") as log:
        done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        print(f"{name}: some jobs failed; see {work}/snakemake.log", file=sys.stderr)
    return rows_of(work, name, config)


def main() -> None:
    facts, found = _facts(), data_folder(".")
    shipped = [path.stem for path in sorted((ROOT / "recipes").glob("*.yaml")) if path.stem not in facts["left_out"]]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=str(found) if found else None, help="folder of the sets")
    parser.add_argument("--work", default="bench_recipes", help="where runs are kept; started again, they go on")
    parser.add_argument("--sets", nargs="+", default=["voc_animals", "camvid", "coco200"])
    parser.add_argument("--recipes", nargs="+", default=shipped, choices=shipped)
    parser.add_argument("--without", nargs="+", default=[], choices=shipped, help="recipes to leave out")
    parser.add_argument("--preset", default="small")
    parser.add_argument("--side", type=int, default=None, help="short side of the feature set semantic, pixels")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--limit", type=int, default=None, help="images of a set, evenly spread; default: all")
    parser.add_argument("--cores", type=int, default=2)
    asked = parser.parse_args()
    if asked.data is None or not Path(asked.data).is_dir():
        sys.exit("no labelled sets: give --data, a folder with one folder a set: images/ and masks/")
    recipes = [name for name in asked.recipes if name not in asked.without]
    for name in asked.sets:
        print(table(name, run_set(name, recipes, asked)) + "\n", flush=True)


if __name__ == "__main__":
    main()

"""Which setting does a default take? Chosen by leave-one-set-out over labelled development sets, by one fixed rule.

    python bench/choose.py --data DATA --work FOLDER [--choices comus_cluster ...] [--sets camvid ...] [--limit 100]

Every setting of a choice (bench/configs/choices.yaml) runs on every set, as a recipe of its own, with `preset: small`.
The score of a run is its mIoU by `hungarian_iou`, mean over seeds. The rule: within each set the settings are ranked,
equals share their mean rank; the setting with the best mean rank is chosen, the larger mean score decides between
equals, then the order of the file.

For each set the rule is applied to all other sets, and what it chooses is scored on the set that was left out: that
figure is untouched, no label of the set had a part in it. What ships is what the rule chooses from all sets; its own
figures are chosen here, and marked so.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from _photos import ROOT, data_folder

CHOICES = ROOT / "bench/configs/choices.yaml"
PROTOCOL = "hungarian_iou"


def chosen(scores: Mapping[str, Mapping[str, float]], sets: Sequence[str]) -> str:
    """The setting that the rule takes from some sets; scores: {setting: {set: score}}."""
    settings = list(scores)
    table = np.array([[scores[setting][name] for name in sets] for setting in settings])  # [settings, sets]
    better = (table[None] > table[:, None]).sum(axis=1)
    equal = (table[None] == table[:, None]).sum(axis=1)
    ranks = 1 + better + (equal - 1) / 2
    order = sorted(range(len(settings)), key=lambda i: (ranks[i].mean(), -table[i].mean(), i))
    return settings[order[0]]


def left_out(scores: Mapping[str, Mapping[str, float]]) -> dict[str, str]:
    """{set: what the rule takes from all other sets}."""
    sets = list(next(iter(scores.values())))
    return {name: chosen(scores, [other for other in sets if other != name]) for name in sets}


def table(name: str, scores: Mapping[str, Mapping[str, float]]) -> str:
    """A choice as Markdown; ships: what the rule takes from all sets."""
    sets, ships = list(next(iter(scores.values()))), chosen(scores, list(next(iter(scores.values()))))
    lines = [f"| {name} | {' | '.join(sets)} |", f"|---|{'---:|' * len(sets)}"]
    for setting, row in scores.items():
        mark = " (ships; chosen here)" if setting == ships else ""
        lines.append(f"| `{setting}`{mark} | {' | '.join(f'{100 * row[s]:.1f}' for s in sets)} |")
    held = left_out(scores)
    untouched = [f"{100 * scores[held[s]][s]:.1f} ({held[s]})" for s in sets]
    lines.append(f"| **untouched**: chosen without the set | {' | '.join(untouched)} |")
    return "\n".join(lines)


def recipe_of(body: Mapping[str, Any], setting: Mapping[str, Any], classes: int) -> dict[str, Any]:
    """A recipe file whose preset `choose` has the setting and the number of clusters that the set asks for."""
    base = yaml.safe_load((ROOT / f"recipes/{body['recipe']}.yaml").read_text())
    background = "cut" in base and base.get("regions", {}).get("pool") != "token" and body["recipe"] != "dinosaur"
    clusters = max(2, classes - 1) if background else classes
    choose = {key: dict(value) for key, value in setting.items()}
    choose["cluster"] = choose.get("cluster", {}) | {"clusters": clusters}
    return base | {"presets": base.get("presets", {}) | {"choose": choose}}


def run_set(name: str, known: Mapping[str, Any], asked: argparse.Namespace) -> dict[tuple[str, str], float]:
    """{(choice, setting): score} on one set."""
    work = Path(asked.work) / name
    work.mkdir(parents=True, exist_ok=True)
    facts, files, targets = known["sets"][name], [], {}
    for choice in asked.choices:
        for setting, body in known["choices"][choice]["settings"].items():
            file = work / f"{choice}.{setting}.yaml"
            file.write_text(yaml.safe_dump(recipe_of(known["choices"][choice], body, facts["classes"])))
            rounds = body.get("rounds", {}).get("count", 0)
            scores = [f"results/recipes/{file.stem}/seed{seed}/round{rounds}/scores.json" for seed in asked.seeds]
            files.append(str(file.resolve()))
            targets[choice, setting] = scores
    data = Path(asked.data) / name
    config = {
        "images": str(data / "images"), "labels": str(data / "masks"), "recipes": files, "preset": ["small", "choose"],
        "seeds": asked.seeds, "inputs": {"max_images": asked.limit},
        "evaluate": {"protocols": [PROTOCOL], "candidates": False} | facts.get("evaluate", {}),
    }  # fmt: skip
    (work / "config.yaml").write_text(yaml.safe_dump(config))
    wanted = [path for paths in targets.values() for path in paths]
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(work)]
    command += ["--profile", str(ROOT / "profiles/default"), "--cores", str(asked.cores), *wanted]
    with (work / "snakemake.log").open("w") as log:
        done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        sys.exit(f"{name}: snakemake failed; see {work}/snakemake.log")
    return {key: float(np.mean([score_of(work / path) for path in paths])) for key, paths in targets.items()}


def score_of(path: Path) -> float:
    """The mIoU of a file of scores."""
    return float(json.loads(path.read_text())["scores"][0]["miou"])


def main() -> None:
    known = yaml.safe_load(CHOICES.read_text())
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found = data_folder(".")
    parser.add_argument("--data", default=str(found) if found else None, help="folder of the sets")
    parser.add_argument("--work", default="bench_choose", help="where runs are kept; started again, they go on")
    parser.add_argument("--choices", nargs="+", default=list(known["choices"]), choices=list(known["choices"]))
    parser.add_argument("--sets", nargs="+", default=list(known["sets"]), choices=list(known["sets"]))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--limit", type=int, default=None, help="images of a set, evenly spread; default: all")
    parser.add_argument("--cores", type=int, default=2)
    asked = parser.parse_args()
    if asked.data is None or not Path(asked.data).is_dir():
        sys.exit("no labelled sets: give --data, a folder with one folder a set: images/ and masks/")
    scores = {name: run_set(name, known, asked) for name in asked.sets}
    print(f"mIoU by {PROTOCOL}, seeds {asked.seeds}, {asked.limit or 'all'} images of a set\n")
    for choice in asked.choices:
        settings = known["choices"][choice]["settings"]
        print(table(choice, {s: {name: scores[name][choice, s] for name in asked.sets} for s in settings}) + "\n")


if __name__ == "__main__":
    main()

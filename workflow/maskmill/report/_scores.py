"""The leaderboard: one table a protocol, recipe x round, mean and spread over seeds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from maskmill.store.artefact import json_hash, read_json

SHARES = ("miou", "accuracy")  # printed in percent; other numbers as they are
TITLES = {"miou": "mIoU", "accuracy": "Accuracy", "discovered": "Classes found"}
HEADS = {
    "hungarian_iou": "Hungarian matching on IoU",
    "hungarian_counts": "Hungarian matching on pixel counts",
    "many_to_one": "Many to one",
    "linear_probe": "Linear probe",
    "linear_probe_online": "Linear probe, STEGO's training",
    "retrieval": "Nearest labelled tokens",
}
READINGS = {
    "linear_probe": "Linear probe: what a linear classifier trained on half of the labels reads out.",
    "linear_probe_online": "STEGO's training of a linear probe: what it reads out after as many steps of Adam as the"
    " protocol says.",
    "retrieval": "Nearest labelled tokens: what a vote of the most similar tokens of the labelled half says; nothing is"
    " trained.",
}
MASKS = {"recipe": "Recipe", "round": "Round", "clusters": "Clusters"}
PROBES = {"features": "Features", "learnt_on": "Learnt on", "dimensions": "Length"}
NOT_METRICS = ("images", "pixels", "unmatched", "clusters")


@dataclass(frozen=True)
class Cell:
    """Mean and sample standard deviation (None for one seed) of a metric, ready to print."""

    mean: float | None
    sd: float | None
    percent: bool
    best: bool = False

    @property
    def text(self) -> str:
        """As printed: percent with one decimal, counts without where they are whole."""
        if self.mean is None or math.isnan(self.mean):
            return "–"
        return self._number(self.mean) + (f" ± {self._number(self.sd)}" if self.sd is not None else "")

    def _number(self, value: float) -> str:
        return f"{100 * value:.1f}" if self.percent else f"{value:.2f}".rstrip("0").rstrip(".")


@dataclass(frozen=True)
class ScoreRow:
    """One recipe and round, or one probe: `leads` says which, under the board's column heads of that name."""

    leads: tuple[int | str | None, ...]
    seeds: tuple[int, ...]
    cells: tuple[Cell, ...]
    classes: tuple[Cell, ...]


@dataclass(frozen=True)
class ScoreBoard:
    """One protocol: its settings, the heads of its columns: leads, metrics and classes, and its rows."""

    name: str
    leads: tuple[str, ...]
    protocol: dict[str, Any]
    images: int | None
    metrics: tuple[str, ...]
    classes: tuple[str, ...]
    rows: tuple[ScoreRow, ...]

    @property
    def title(self) -> str:
        """Head of the table."""
        return HEADS.get(self.name, self.name.replace("_", " "))

    @property
    def titles(self) -> list[str]:
        """Column heads of the metrics."""
        return [TITLES.get(name, name.replace("_", " ")) for name in self.metrics]


def read_scores(results: Path, recipes: Mapping[str, int], seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Every scores.json that exists of recipe -> number of rounds and the seeds, in that order."""
    found = []
    for recipe, rounds in recipes.items():
        for r in range(rounds + 1):
            for seed in seeds:
                path = results / f"recipes/{recipe}/seed{seed}/round{r}/scores.json"
                if path.is_file():
                    found.append(read_json(path) | {"recipe": recipe, "seed": seed, "round": r})
    return found


def read_readouts(
    results: Path, probes: Mapping[str, Sequence[str]], seeds: Sequence[int], names: Sequence[str]
) -> list[dict[str, Any]]:
    """Every read-out that exists, one after another: of each feature set, followed by the codes learnt on it.

    Args:
        probes: slug of a feature set -> recipes whose heads were learnt on it and whose codes are read out.
        names: of the read-outs.
    """
    found = []
    for name, (slug, recipes) in itertools.product(names, probes.items()):
        places: list[tuple[Path, str, str | None]] = [(results / f"evaluate/{name}/{slug}.json", slug, None)]
        for recipe in recipes:
            paths = [results / f"recipes/{recipe}/seed{seed}/adapt_{name}.json" for seed in seeds]
            places += [(path, f"codes of {recipe}", slug) for path in paths]
        for path, subject, learnt_on in places:
            if path.is_file():
                found.append(read_json(path) | {"features": subject, "learnt_on": learnt_on})
    return found


def boards(files: Sequence[Mapping[str, Any]], leads: Mapping[str, str] = MASKS) -> list[ScoreBoard]:
    """Group scores by their whole protocol: numbers of different protocols never share a column.

    Args:
        leads: key of a file -> its column's head. The first two name a row, the third may vary over the row's seeds.
    """
    groups: dict[str, list[tuple[Mapping[str, Any], Mapping[str, Any]]]] = {}
    for file in files:
        for score in file.get("scores", []):
            key = json_hash([score["protocol"], score.get("images")])
            groups.setdefault(key, []).append((file, score))
    return [_board(group, leads) for group in groups.values()]


def _board(group: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]], leads: Mapping[str, str]) -> ScoreBoard:
    first, (one, two, varying) = group[0][1], leads
    metrics = [m for m in TITLES if m in first]
    metrics += sorted(m for m, v in first.items() if m not in (*metrics, *NOT_METRICS) and isinstance(v, int | float))
    classes = list(dict.fromkeys(name for _, score in group for name in score.get("per_class") or {}))
    keys = list(dict.fromkeys((file[one], file[two]) for file, _ in group))
    rows = []
    for key in keys:
        mine = [(file, score) for file, score in group if (file[one], file[two]) == key]
        cells = [_cell([score.get(m) for _, score in mine], m in SHARES) for m in metrics]
        each = [_cell([(score.get("per_class") or {}).get(c) for _, score in mine], True) for c in classes]
        counts = list(dict.fromkeys(file.get(varying) for file, _ in mine))
        count = counts[0] if len(counts) == 1 else " / ".join(map(str, counts))
        rows.append(ScoreRow((*key, count), tuple(file["seed"] for file, _ in mine), tuple(cells), tuple(each)))
    protocol = dict(first["protocol"])
    name = str(protocol.pop("name", "scores"))
    comparable = name != "many_to_one" or len({row.leads[-1] for row in rows}) == 1  # more clusters can only help there
    ranked = _mark_best(rows) if comparable else tuple(rows)
    heads = tuple(leads.values())
    return ScoreBoard(name, heads, protocol, first.get("images"), tuple(metrics), tuple(map(str, classes)), ranked)


def cluster_names(files: Sequence[Mapping[str, Any]], recipe: str, number: int, seed: int) -> dict[int, str]:
    """Mask value -> label class by the first protocol that matches one to one; empty without labels."""
    for file in files:
        if (file["recipe"], file["round"], file["seed"]) == (recipe, number, seed):
            for score in file.get("scores", []):
                if str(score["protocol"].get("name", "")).startswith("hungarian"):
                    return {int(value): str(name) for value, name in (score.get("matching") or {}).items()}
    return {}


def _cell(values: Sequence[Any], percent: bool) -> Cell:
    numbers = [float(v) for v in values if isinstance(v, int | float) and not math.isnan(v)]
    if not numbers:
        return Cell(None, None, percent)
    return Cell(float(np.mean(numbers)), float(np.std(numbers, ddof=1)) if len(numbers) > 1 else None, percent)


def _mark_best(rows: Sequence[ScoreRow]) -> tuple[ScoreRow, ...]:
    """The largest mean of every column, as printed: equals are all best, but not where the whole column is."""

    def marked(cells: Sequence[tuple[Cell, ...]]) -> list[tuple[Cell, ...]]:
        columns = [[c.mean if c.mean is not None else -math.inf for c in column] for column in zip(*cells, strict=True)]
        # Rounded as printed, and no best where all are equal.
        tops = [round(max(column), 4) if len({round(v, 4) for v in column}) > 1 else math.inf for column in columns]
        return [
            tuple(
                Cell(c.mean, c.sd, c.percent, c.mean is not None and round(c.mean, 4) == top)
                for c, top in zip(row, tops, strict=True)
            )
            for row in cells
        ]

    both = zip(rows, marked([r.cells for r in rows]), marked([r.classes for r in rows]), strict=True)
    return tuple(ScoreRow(r.leads, r.seeds, cells, classes) for r, cells, classes in both)

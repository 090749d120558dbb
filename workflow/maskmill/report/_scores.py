"""The leaderboard: one table a protocol, recipe x round, mean and spread over seeds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from maskmill.store.artefact import read_json
from maskmill.store.hashing import json_hash

SHARES = (
    "miou",
    "accuracy",
    "boundary_f",
    "boundary_precision",
    "boundary_recall",
)  # printed in percent; other numbers as they are
TITLES = {
    "miou": "mIoU", "accuracy": "Accuracy", "discovered": "Classes found",
    "boundary_f": "Boundary F", "boundary_precision": "Precision", "boundary_recall": "Recall",
}  # fmt: skip
HEADS = {
    "hungarian_iou": "Hungarian matching on IoU",
    "hungarian_counts": "Hungarian matching on pixel counts",
    "many_to_one": "Many to one",
    "many_to_one_iou": "Many to one by IoU",
    "hungarian_iou_background": "Hungarian matching on IoU, surplus clusters to the background",
    "oracle_per_image": "Matched anew in each image (an oracle, no clustering of the set)",
    "named": "By name",
    "linear_probe": "Linear probe",
    "linear_probe_online": "Linear probe, STEGO's training",
    "retrieval": "Nearest labelled tokens",
    "segment_retrieval": "Nearest labelled segments",
}
HEADS |= {f"boundary_{name}": f"Boundaries of classes. {head}" for name, head in HEADS.items()}
READINGS = {
    "linear_probe": "Linear probe: what a linear classifier trained on half of the labels reads out.",
    "linear_probe_online": "STEGO's training of a linear probe: what it reads out after as many steps of Adam as the"
    " protocol says.",
    "retrieval": "Nearest labelled tokens: what a vote of the most similar tokens of the labelled half says; nothing is"
    " trained.",
    "segment_retrieval": "Nearest labelled segments: each segment of an image gets the class that most of the similar"
    " segments of the labelled half have; nothing is trained.",
}
MASKS = {"recipe": "Recipe", "round": "Round", "readout": "Read-out", "clusters": "Clusters"}
CENTRES = {"prototypes": "prototypes of the head", "kmeans": "k-means", "online": "prototypes trained on the tokens"}
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
    def texts(self) -> tuple[bool, ...]:
        """Which leads are words: these columns are not set as numbers."""
        return tuple(any(isinstance(row.leads[i], str) for row in self.rows) for i in range(len(self.leads)))

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
        exported = _exported(results, recipe, seeds)
        for r in range(rounds + 1):
            for seed in seeds:
                path = results / f"recipes/{recipe}/seed{seed}/round{r}/scores.json"
                if path.is_file():
                    more = {"recipe": recipe, "seed": seed, "round": r, "readout": exported if r == 0 else None}
                    found.append(read_json(path) | more)
    return found


def read_candidates(results: Path, recipes: Iterable[str], seeds: Sequence[int]) -> list[dict[str, Any]]:
    """What candidates.json has of masks that are not exported, as files of scores of round 0."""
    found = []
    for recipe, seed in itertools.product(recipes, seeds):
        path = results / f"recipes/{recipe}/seed{seed}/candidates.json"
        body = read_json(path) if path.is_file() else {"candidates": []}
        for each in body["candidates"]:
            if each["name"] != body["exported"]:
                readout = f"{CENTRES[each['name']]}, not exported"
                found.append(body | {"recipe": recipe, "seed": seed, "readout": readout, "scores": each["scores"]})
    return found


def read_oracles(cuts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What objects.json files have of segments matched anew in each image, as files of scores."""
    facts = {"round": "cut", "seed": 0, "clusters": None}
    return [dict(cut) | facts | {"scores": cut["oracle"]} for cut in cuts if cut.get("oracle")]


def read_boundaries(files: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What the files of `read_scores` have of boundaries, as files of scores."""
    return [dict(file) | {"scores": file["boundary"]} for file in files if file.get("boundary")]


def _exported(results: Path, recipe: str, seeds: Sequence[int]) -> str | None:
    """Whose centres the exported masks of round 0 are, where they were chosen or compared; seeds may differ."""
    paths = [results / f"recipes/{recipe}/seed{seed}/candidates.json" for seed in seeds]
    names = [read_json(path)["exported"] for path in paths if path.is_file()]
    if not names:
        return None
    several = [f"{CENTRES[n]} ({names.count(n)} seeds)" for n in dict.fromkeys(names)]
    return CENTRES[names[0]] if len(several) == 1 else ", ".join(several)


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
        leads: key of a file -> its column's head. The last may vary over the row's seeds, the others name a row;
            one that no file has is left out.
    """
    leads = {key: head for key, head in leads.items() if any(file.get(key) is not None for file in files)}
    groups: dict[str, list[tuple[Mapping[str, Any], Mapping[str, Any]]]] = {}
    for file in files:
        for score in file.get("scores", []):
            key = json_hash([score["protocol"], score.get("images")])
            groups.setdefault(key, []).append((file, score))
    return [_board(group, leads) for group in groups.values()]


def _board(group: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]], leads: Mapping[str, str]) -> ScoreBoard:
    first, varying = group[0][1], list(leads)[-1]
    names = list(leads)[:-1]
    metrics = [m for m in TITLES if m in first]
    metrics += sorted(m for m, v in first.items() if m not in (*metrics, *NOT_METRICS) and isinstance(v, int | float))
    classes = list(dict.fromkeys(name for _, score in group for name in score.get("per_class") or {}))
    keys = list(dict.fromkeys(tuple(file.get(name) for name in names) for file, _ in group))
    order = list(dict.fromkeys(key[:2] for key in keys))
    keys.sort(key=lambda key: order.index(key[:2]))  # the read-outs of one recipe and round below one another
    rows = []
    for key in keys:
        mine = [(file, score) for file, score in group if tuple(file.get(name) for name in names) == key]
        cells = [_cell([score.get(m) for _, score in mine], m in SHARES) for m in metrics]
        each = [_cell([(score.get("per_class") or {}).get(c) for _, score in mine], True) for c in classes]
        counts = list(dict.fromkeys(file.get(varying) for file, _ in mine))
        count = counts[0] if len(counts) == 1 else " / ".join(map(str, counts))
        rows.append(ScoreRow((*key, count), tuple(file["seed"] for file, _ in mine), tuple(cells), tuple(each)))
    protocol = dict(first["protocol"])
    name = str(protocol.pop("name", "scores"))
    sizes = {row.leads[-1] for row in rows}  # more clusters can only help where several may have one class
    comparable = "many_to_one" not in name or len(sizes) == 1
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

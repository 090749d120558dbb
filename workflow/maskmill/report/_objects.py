"""Objects without classes: one table a protocol, recipe x step (cut, or round of masks), mean and spread over seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from maskmill.report._scores import Cell
from maskmill.store.artefact import read_json
from maskmill.store.hashing import json_hash

HEADS = {
    "objects": "Objects, without classes",
    "saliency": "Foreground, without classes",
    "superpixels": "Segments and the regions of labels",
    "panoptic": "Panoptic quality",
}
RECALLS = {"ars": "ARs", "arm": "ARm", "arl": "ARl", "ar1000": "AR1000"}
TITLES = {
    "corloc": "CorLoc",
    "mbo": "mBO",
    "fg_ari": "FG-ARI",
    **{f"box_{name}": f"Box {name.upper()}" for name in ("ap", "ap50", "ap75", "ar1", "ar10", "ar100")},
    **{f"mask_{name}": f"Mask {name.upper()}" for name in ("ap", "ap50", "ap75", "ar1", "ar10", "ar100")},
    **{f"{kind}_{name}": f"{kind.title()} {title}" for kind in ("box", "mask") for name, title in RECALLS.items()},
    **{
        f"{name}{kind}": f"{name.upper()}{kind.replace('_', ' ')}"
        for kind in ("", "_things", "_stuff")
        for name in ("pq", "sq", "rq")
    },
    "iou": "IoU",
    "accuracy": "Accuracy",
    "maxf": "max F",
    "mae": "MAE",
    "boundary_recall": "Boundary recall",
    "boundary_recall_2px": "Boundary recall, 2 px",
    "undersegmentation": "Undersegmentation error",
    "achievable_accuracy": "Achievable accuracy",
    "superpixels": "Superpixels",
}
LOWER = ("mae", "undersegmentation")  # the smallest is the best


@dataclass(frozen=True)
class ObjectRow:
    """One recipe and step: "cut", or "round 0" of its masks."""

    recipe: str
    step: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class ObjectBoard:
    """One protocol: its settings, how many images and objects, the column heads, its rows."""

    title: str
    protocol: dict[str, Any]
    images: int
    objects: int | None
    titles: tuple[str, ...]
    rows: tuple[ObjectRow, ...]


def read(results: Path, recipes: Iterable[str]) -> list[dict[str, Any]]:
    """Every objects.json that exists, in the order of the recipes."""
    paths = {recipe: results / f"recipes/{recipe}/objects.json" for recipe in recipes}
    return [read_json(path) | {"recipe": recipe} for recipe, path in paths.items() if path.is_file()]


def boards(cuts: Sequence[Mapping[str, Any]], masks: Sequence[Mapping[str, Any]]) -> list[ObjectBoard]:
    """Group scores by their whole protocol: numbers of different protocols never share a column.

    Args:
        cuts: objects.json files. masks: scores.json files; the `saliency` of their masks and the scores of their
            instances, `objects`, join those of the cut; `panoptic` has boards of its own.
    """
    groups: dict[str, dict[tuple[str, str], list[Mapping[str, Any]]]] = {}
    entries = [(file["recipe"], "cut", score) for file in cuts for score in file.get("scores", [])]
    for file in masks:
        found = [*file.get("objects", []), *file.get("saliency", []), *file.get("panoptic", [])]
        entries += [(file["recipe"], f"round {file['round']}", score) for score in found]
    for recipe, step, score in entries:
        group = groups.setdefault(json_hash([score["protocol"], score["images"]]), {})
        group.setdefault((recipe, step), []).append(score)
    made = [_board(group) for group in groups.values()]
    return sorted(made, key=lambda board: list(HEADS.values()).index(board.title))


def _board(group: Mapping[tuple[str, str], Sequence[Mapping[str, Any]]]) -> ObjectBoard:
    first = next(iter(group.values()))[0]
    names = [name for name in TITLES if any(name in score for scores in group.values() for score in scores)]
    columns = [_column([[score.get(name) for score in scores] for scores in group.values()], name) for name in names]
    recipes = list(dict.fromkeys(recipe for recipe, _ in group))
    rows = [ObjectRow(*key, tuple(column[i] for column in columns)) for i, key in enumerate(group)]
    rows.sort(key=lambda row: recipes.index(row.recipe))  # stable: the cut, then the rounds
    protocol = dict(first["protocol"])
    title = HEADS[protocol.pop("name")]
    protocol |= {f"{TITLES.get(name, name)} rule": rule for name, rule in protocol.pop("rules", {}).items()}
    heads = tuple(TITLES[name] for name in names)
    return ObjectBoard(title, protocol, int(first["images"]), first.get("objects"), heads, tuple(rows))


def _column(values: Sequence[Sequence[float | None]], name: str) -> list[Cell]:
    """Cells of one metric; values: [rows][seeds]. The best as printed is marked, but not where all are equal."""
    cells = []
    for row in values:
        known = [value for value in row if value is not None]
        sd = float(np.std(known, ddof=1)) if len(known) > 1 else None
        cells.append(Cell(float(np.mean(known)) if known else None, sd, True))
    printed = [round(cell.mean, 4) for cell in cells if cell.mean is not None]
    if len(set(printed)) < 2:
        return cells
    top = min(printed) if name in LOWER else max(printed)
    return [Cell(c.mean, c.sd, True, round(math.nan if c.mean is None else c.mean, 4) == top) for c in cells]

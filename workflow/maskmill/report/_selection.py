"""Scores of a clustering that need no labels: how apart the clusters are, and how alike the seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from maskmill.store.artefact import read_json

WIDTH, HEIGHT = 220.0, 64.0  # of a drawing, in its own units


def read_selection(results: Path, recipe: str, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """selection.json of every seed that has one."""
    paths = [results / f"recipes/{recipe}/seed{seed}/cluster/selection.json" for seed in seeds]
    return [read_json(path) for path in paths if path.is_file()]


def silhouettes(found: Sequence[dict[str, Any]]) -> list[float]:
    """Silhouette of every seed, NaN where there is none."""
    return [float("nan") if body["silhouette"] is None else float(body["silhouette"]) for body in found]


def stability(found: Sequence[dict[str, Any]]) -> list[float]:
    """Adjusted mutual information of every pair of seeds (Vinh et al., 2010): 1 the same clusters, 0 chance."""
    from sklearn.metrics import adjusted_mutual_info_score

    pairs = combinations([np.asarray(body["labels"]) for body in found], 2)
    return [float(adjusted_mutual_info_score(a, b)) for a, b in pairs if len(a) == len(b)]


@dataclass(frozen=True)
class NumberChart:
    """How the number of clusters was chosen: curves over the numbers (logarithmic) in a box of WIDTH x HEIGHT.

    Attributes:
        chosen: the number. first, last: what was tried. stability, reference: paths; 1 is at the top, 0 at the bottom.
        place: x of the chosen number. level: y of the least stability. text: what the curve is, for those who do not
            see it. warning: what a reader should know of the choice, or nothing.
    """

    chosen: int
    first: int
    last: int
    stability: str
    reference: str
    place: float
    level: float
    text: str
    warning: str


def number_chart(found: Sequence[Mapping[str, Any]]) -> NumberChart | None:
    """The chart of a recipe's `clusters: auto`, which is the same for all seeds; None where it was told a number."""
    body = next((each["auto"] for each in found if each.get("auto")), None)
    if body is None:
        return None
    curve = body["curve"]
    numbers = [int(point["clusters"]) for point in curve]
    span = math.log(numbers[-1] / numbers[0]) or 1.0

    def across(k: int) -> float:
        return round(2 + (WIDTH - 4) * math.log(k / numbers[0]) / span, 1)

    def up(value: float) -> float:
        return round(HEIGHT - 2 - (HEIGHT - 4) * min(max(value, 0.0), 1.0), 1)

    def path(key: str) -> str:
        return "M" + "L".join(f"{across(k)} {up(point[key])}" for k, point in zip(numbers, curve, strict=True))

    chosen = int(body["chosen"])
    best = next(point for point in curve if point["clusters"] == chosen)
    text = f"stability {best['stability']:.2f} at {chosen} clusters, {best['reference']:.2f} without structure"
    return NumberChart(
        chosen, numbers[0], numbers[-1], path("stability"), path("reference"), across(chosen),
        up(float(body["stable"])), text, _warning(body, numbers[-1]),
    )  # fmt: skip


def _warning(body: Mapping[str, Any], last: int) -> str:
    """What is doubtful about a chosen number."""
    if not body["supported"]:
        tried = f"no number from {body['range'][0]} to {last} is repeatable"
        return f"{tried}, so this is only the smallest; set cluster.clusters"
    if body["end"] and last < body["range"][1]:
        return "the best lies at the end of what so few vectors allow; use more images"
    return "the best lies at the end of the range; widen cluster.range" if body["end"] else ""

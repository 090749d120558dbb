"""Backbones that the run has trained: how the training went, and whether their features are better than the start's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskmill.report._heads import Curve, curve
from maskmill.store.artefact import read_json

AGREEMENTS = {
    "photo_neighbours": "neighbours of photos",
    "token_neighbours": "neighbours of places",
    "clusters": "clusters",
}


@dataclass(frozen=True)
class MeasureRow:
    """A measure of the gate: both networks and the change as text; says is better, worse, or empty."""

    title: str
    before: str
    after: str
    change: str
    counts: bool
    says: str


@dataclass(frozen=True)
class BackboneView:
    """One trained backbone.

    Attributes:
        name: of its folder. backbone, method: as the recipe names them. used: recipes and feature sets that read it.
        steps, images: of the training, and how many images a step sees. curves: of loss and monitors.
        sentence: whether its features are better, in words; better, accepted (trained or start): the same as values.
        start: weights or scratch. photos: that were compared. measures: the table. agreement: both networks say the
            same of, in words: how far.
    """

    name: str
    backbone: str
    method: str
    used: Sequence[str]
    steps: int
    images: int
    curves: Sequence[Curve]
    sentence: str
    better: bool
    accepted: str
    start: str
    photos: int
    measures: Sequence[MeasureRow]
    agreement: Mapping[str, str]


def read(results: Path, pretrained: Mapping[str, Mapping[str, Any]]) -> list[BackboneView]:
    """The backbones of a run.

    Args:
        pretrained: by the name of the folder: backbone, method, and used (the names of `BackboneView`).
    """
    found = []
    for name, about in pretrained.items():
        folder = results / "pretrain" / name
        found.append(view(name, about, read_json(folder / "monitor.json"), read_json(folder / "report.json")))
    return found


def view(name: str, about: Mapping[str, Any], monitor: Mapping[str, Any], report: Mapping[str, Any]) -> BackboneView:
    """A backbone as the page shows it, from its monitor and the report of its gate."""
    courses = {"loss": monitor["loss"], **monitor.get("monitors", {})}
    known = {title: [v for v in values if v is not None and math.isfinite(v)] for title, values in courses.items()}
    said = str(report["sentence"])
    return BackboneView(
        name,
        str(about["backbone"]),
        str(about["method"]),
        list(about["used"]),
        int(monitor.get("steps", len(monitor["loss"]))),
        int(monitor.get("images", 0)),
        [curve(title.replace("_", " "), values) for title, values in known.items() if values],
        said[:1].upper() + said[1:] + ".",
        bool(report["better"]),
        str(report["accepted"]),
        str(report["start"]),
        int(report["photos"]),
        [_row(each) for each in report["measures"]],
        {title: _number(report["agreement"].get(key)) for key, title in AGREEMENTS.items()},
    )


def _row(measure: Mapping[str, Any]) -> MeasureRow:
    change = f"{measure['change']:+.2f} ± {measure['error']:.2f}" if measure["counts"] else ""
    return MeasureRow(
        str(measure["title"]),
        _number(measure["before"]),
        _number(measure["after"]),
        change.replace("-", "\u2212"),
        bool(measure["counts"]),
        str(measure["says"]),
    )


def _number(value: float | None) -> str:
    """Two decimals below ten, three digits above, and a dash for what is not known."""
    if value is None or not math.isfinite(value):
        return "–"
    return (f"{value:.2f}" if abs(value) < 10 else f"{value:.0f}").replace("-", "\u2212")

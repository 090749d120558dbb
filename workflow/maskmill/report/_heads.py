"""The heads of the stage adapt: how their training went, and whether they have collapsed, as small inline drawings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskmill.store.artefact import read_json

WIDTH, HEIGHT = 220.0, 64.0  # of a drawing, in its own units
POINTS = 200  # of a curve: longer ones are shown as means of equal parts


@dataclass(frozen=True)
class Curve:
    """A course over the steps: a path in a box of WIDTH x HEIGHT, and its first and last value as text."""

    name: str
    path: str
    first: str
    last: str


@dataclass(frozen=True)
class Histogram:
    """Shares of equal bins of [-1, 1] as one path, and the shift that parts them, if there is one (x in the box)."""

    name: str
    path: str
    shift: float | None


@dataclass(frozen=True)
class HeadView:
    """One head: its recipe, method, seed, steps, curves, histograms, and the share of its largest cluster."""

    recipe: str
    method: str
    seed: int
    steps: int
    curves: Sequence[Curve]
    histograms: Sequence[Histogram]
    largest: float | None


def read(results: Path, recipes: Mapping[str, Mapping[str, Any]], seeds: Sequence[int]) -> list[HeadView]:
    """The heads of all recipes that have the stage, of every seed."""
    found = []
    for name, body in recipes.items():
        section = body["sections"].get("adapt")
        if section is None:
            continue
        for seed in seeds:
            monitor = read_json(results / f"recipes/{name}/seed{seed}/adapt/monitor.json")
            found.append(view(name, str(section["method"]), seed, monitor))
    return found


def view(recipe: str, method: str, seed: int, monitor: Mapping[str, Any]) -> HeadView:
    """A head as the page shows it, from its monitor."""
    courses = {"loss": monitor["loss"], **monitor.get("monitors", {})}
    curves = [curve(name, values) for name, values in courses.items() if len(values)]
    shifts = monitor.get("shifts", {})
    histograms = [
        Histogram(name, bars(shares), _shift(name, shifts)) for name, shares in monitor.get("histograms", {}).items()
    ]
    shares = monitor.get("clusters") or []
    return HeadView(recipe, method, seed, len(monitor["loss"]), curves, histograms, max(shares) if shares else None)


def _shift(name: str, shifts: Mapping[str, float]) -> float | None:
    """Where the shift of a kind of pair lies in the histogram of its features."""
    what, _, kind = name.partition(" ")
    return round((float(shifts[kind]) + 1) / 2 * WIDTH, 1) if what == "features" and kind in shifts else None


def curve(name: str, values: Sequence[float]) -> Curve:
    """A course as a path; its box spans the least and the largest value."""
    size = max(1, math.ceil(len(values) / POINTS))
    parts = [values[i : i + size] for i in range(0, len(values), size)]
    means = [sum(part) / len(part) for part in parts]
    low, high = min(means), max(means)
    wide, tall = WIDTH / max(1, len(means) - 1), (HEIGHT - 4) / ((high - low) or 1)
    points = (f"{i * wide:.1f} {HEIGHT - 2 - (value - low) * tall:.1f}" for i, value in enumerate(means))
    return Curve(name, "M" + "L".join(points), f"{values[0]:.3g}", f"{values[-1]:.3g}")


def bars(shares: Sequence[float]) -> str:
    """A histogram as the outline of its bars, the highest as tall as the box."""
    step, top = WIDTH / len(shares), max(shares) or 1
    corners = [f"M0 {HEIGHT:g}"]
    for i, share in enumerate(shares):
        y = HEIGHT * (1 - share / top)
        corners.append(f"L{i * step:.1f} {y:.1f}L{(i + 1) * step:.1f} {y:.1f}")
    return "".join(corners) + f"L{WIDTH:g} {HEIGHT:g}Z"

"""The leaderboard: scores of several recipes, rounds and seeds, where numbers of different protocols never mix."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

METRICS = ("accuracy", "miou", "discovered", "unmatched")


@dataclass(frozen=True)
class Stat:
    """Mean and sample standard deviation over seeds; `sd` is None for a single seed."""

    mean: float
    sd: float | None
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Stat:
        """Statistics of at least one value."""
        array = np.asarray(values, np.float64)
        return cls(float(array.mean()), float(array.std(ddof=1)) if len(array) > 1 else None, len(array))


@dataclass(frozen=True)
class LeaderboardRow:
    """One line of the leaderboard.

    Attributes:
        protocol: the whole protocol, with its `hash`; only rows of one hash may share a table.
        recipe: recipe, or the feature set of a linear probe. round: None for probes.
        features: what a linear probe read: a feature set, or the codes of the recipe's heads; None for masks.
        seeds: in ascending order. metrics: accuracy, miou, discovered, unmatched. per_class: IoU where it exists.
    """

    protocol: Mapping[str, Any]
    recipe: str
    round: int | None
    clusters: int | None
    seeds: tuple[int, ...]
    metrics: Mapping[str, Stat]
    per_class: Mapping[str, Stat] = field(default_factory=dict)
    features: str | None = None


def leaderboard(scores: Iterable[Mapping[str, Any]]) -> list[LeaderboardRow]:
    """Rows grouped by (protocol, recipe, probed features, round); protocols by name, then by falling mean mIoU.

    Args:
        scores: the objects of scores.json files and of linear probes.

    Raises:
        ValueError: one seed of a group is given twice.
    """
    groups: dict[tuple[str, str, str | None, int | None, int | None], dict[int, Mapping[str, Any]]] = {}
    for body in scores:
        name = body.get("recipe") or body["features"]
        subject = (name, body.get("features"), body.get("round"), body.get("clusters"))
        for entry in body["scores"]:
            group = groups.setdefault((entry["protocol"]["hash"], *subject), {})
            if body["seed"] in group:
                raise ValueError(f"{subject}: seed {body['seed']} is given twice for one protocol")
            group[body["seed"]] = entry
    rows = [_row(*key[1:], group) for key, group in groups.items()]
    return sorted(rows, key=_order)


def tables(rows: Iterable[LeaderboardRow]) -> dict[str, list[LeaderboardRow]]:
    """{protocol hash: its rows}: one table each."""
    found: dict[str, list[LeaderboardRow]] = {}
    for row in rows:
        found.setdefault(row.protocol["hash"], []).append(row)
    return found


def _row(
    recipe: str, features: str | None, round: int | None, clusters: int | None, group: Mapping[int, Mapping[str, Any]]
) -> LeaderboardRow:
    entries = [group[seed] for seed in sorted(group)]
    return LeaderboardRow(
        protocol=entries[0]["protocol"],
        recipe=recipe,
        round=round,
        clusters=clusters,
        seeds=tuple(sorted(group)),
        metrics={name: Stat.of([entry[name] for entry in entries]) for name in METRICS},
        per_class={
            name: Stat.of([entry["per_class"][name] for entry in entries])
            for name, value in entries[0]["per_class"].items()
            if value is not None
        },
        features=features,
    )


def _order(row: LeaderboardRow) -> tuple[Any, ...]:
    return row.protocol["name"], row.protocol["hash"], -row.metrics["miou"].mean, row.recipe, row.round or 0

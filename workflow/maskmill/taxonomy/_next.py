"""What to name or to label next, of a run whose clusters have been surveyed: see `_suggest` for the rule."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from maskmill.errors import StoreError
from maskmill.store import codebook as books
from maskmill.store.atomic import atomic
from maskmill.store.class_names import read as read_names
from maskmill.store.codebook import Codebook
from maskmill.store.ragged import Ragged
from maskmill.taxonomy import _suggest as rule
from maskmill.taxonomy._document import leaf_of

UNKNOWN = 0.5  # uncertainty of a cluster that labels named and of which no confidence is known
LIKEST = 32  # clusters that the report knows to be alike
COLUMNS = ["rank", "kind", "id", "share", "tells"]


@dataclass(frozen=True)
class Suggestion:
    """A cluster (its number, from 1) or an image (its id) to name or to label next.

    Attributes:
        share: of the surveyed area: the cluster's own; of an image what is open in it. tells: of all that is to be told
            (`_suggest`), what its name tells beside those before it, 0..1.
    """

    kind: str
    id: str
    share: float
    tells: float


def influences(book: Codebook) -> list[list[tuple[int, float]]]:
    """For each cluster [k], the clusters that its name tells most of and how much (numbers from 1), itself first: what
    the report needs to suggest anew after every name.
    """
    alike = rule.likeness(book)
    found = []
    for j in range(len(book)):
        rows = slice(alike.indptr[j], alike.indptr[j + 1])
        pairs = sorted(zip((-alike.data[rows]).tolist(), alike.indices[rows].tolist(), strict=True))
        found.append([(i + 1, round(-w, 4)) for w, i in pairs[: LIKEST + 1]])
    return found


def suggest(folder: Path, count: int) -> list[Suggestion]:
    """The clusters and the images that tell most, the best ones first, each at most `count`.

    Args:
        folder: `results/recipes/<recipe>/seed<n>` of a run.

    Raises:
        StoreError: the run has no survey of this seed.
    """
    if not (folder / "taxonomy/survey.zarr").is_dir():
        raise StoreError(
            f"{folder}: has no survey of its clusters; give the recipe and the first seed of a finished run "
            "(--results, --recipe, --seed)"
        )
    survey, book = Ragged(folder / "taxonomy/survey.zarr", "masks"), books.read(folder / "cluster/codebook.safetensors")
    if survey.attrs["codebook"] != books.fingerprint(book):
        raise StoreError(f"{survey.path}: of other clusters than {folder}/cluster; run snakemake again")
    tallies = np.array(
        [np.bincount(values.ravel(), minlength=len(book) + 1)[1 : len(book) + 1] for _, values in survey.images()]
    )
    area = tallies.sum(axis=0) / max(1, sum(int(h) * int(w) for h, w in survey.grid))
    named, uncertainty = _known(folder, len(book))
    unsure, alike = np.where(named, 0, uncertainty), rule.likeness(book)
    whole = float((area**rule.POWER * unsure).sum()) or 1.0
    clusters, gains = rule.clusters(area, unsure, alike, count, named)
    found = [
        Suggestion("cluster", str(c + 1), float(area[c]), float(g) / whole)
        for c, g in zip(clusters, gains, strict=True)
        if g
    ]
    images, gains = rule.images(tallies, area, unsure, alike, count)
    open_in = (tallies @ unsure) / np.maximum(tallies.sum(axis=1), 1)
    return found + [
        Suggestion("image", survey.ids[i], float(open_in[i]), float(g) / whole)
        for i, g in zip(images, gains, strict=True)
        if g
    ]


def _known(folder: Path, clusters: int) -> tuple[np.ndarray, np.ndarray]:
    """Which clusters a person has named, bool [k], and how unsure the names of the others are [k], 1: no name."""
    named, uncertainty = np.zeros(clusters, bool), np.ones(clusters)
    file = folder / "taxonomy/classes.json"
    if not file.is_file():
        return named, uncertainty
    body = read_names(file).body
    by_hand, undecided = body["source"] == "file", set(body["open"])
    owners: list[tuple[Sequence[str], Any]] = [(each["clusters"], each["confidence"]) for each in body["classes"]]
    for owned, confidence in (*owners, (body["background"], None), (body["ignore"], None)):
        numbers = {leaf_of(leaf)[0] - 1 for leaf in owned if leaf not in undecided}
        at = np.array(sorted(n for n in numbers if 0 <= n < clusters), int)
        named[at] = by_hand
        uncertainty[at] = UNKNOWN if confidence is None else 1 - float(confidence)
    return named, uncertainty


def write_csv(path: Path, found: Sequence[Suggestion]) -> None:
    """One line a suggestion; ranks count from 1 for clusters and for images."""
    ranks = {"cluster": 0, "image": 0}
    with atomic(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(COLUMNS)
        for each in found:
            ranks[each.kind] += 1
            out.writerow([ranks[each.kind], each.kind, each.id, f"{each.share:.6f}", f"{each.tells:.6f}"])

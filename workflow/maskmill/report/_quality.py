"""Predicted quality without labels: how far the masks of recipes, seeds and rounds agree on the sampled images.

The rule is fixed: the predicted quality of a recipe is its mean agreement with the other recipes of the run. With fewer
than three recipes it is unknown, as two agree with each other to the same degree. What other methods find again in
other vectors is evidence. That seeds agree is none, as coarse and poor clusters are stable, nor that a round keeps its
masks, as a student imitates them: both are shown only. Agreement is the adjusted Rand index of all sampled cells
together, so that a label must mean the same in all images. It ranks recipes of one number of clusters
(docs/benchmarks.md), and the page warns of others.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from maskmill.images.masks import ignore_value, to_size
from maskmill.images.sample import Sample, read_images
from maskmill.numerics.agreement import OPEN, adjusted_rand, agreeing, best_iou, same, table
from maskmill.report import _facts

SIDE = 64  # cells of the longer side of an image on which maps are compared
SEEDS = 3  # of a recipe that are compared
RANKED = 3  # recipes that it takes to tell them apart
LABELS = 1024  # maps of more labels are not compared: the tables grow with the square
CLASSES_SHOWN, IMAGES_SHOWN = 40, 8


@dataclass(frozen=True)
class Labelled:
    """One set of masks on the sampled images: labels [cells] int16 or int32, images in turn, OPEN where ignored."""

    labels: np.ndarray
    size: int


@dataclass(frozen=True)
class ClassRow:
    """One value of a recipe's masks: share of the sampled cells, and mean best IoU in the other masks."""

    value: int
    share: float
    agreement: float


@dataclass(frozen=True)
class ImageRow:
    """One image: its place in the gallery or None, and the share of its cells on which the masks agree."""

    id: str
    place: int | None
    agreement: float


@dataclass(frozen=True)
class Row:
    """A recipe. Numbers are None where there is nothing to compare with.

    Attributes:
        values: different values in its masks. predicted: `others` where there are at least RANKED recipes.
        others, seeds, rounds: adjusted Rand index of its last masks with those of the other recipes, between its seeds,
            and with those of the round before. classes, images: the least agreed on first.
    """

    recipe: str
    values: int | None
    predicted: float | None
    others: float | None
    seeds: float | None
    rounds: float | None
    classes: list[ClassRow]
    images: list[ImageRow]


def measure(results: Path, recipes: Mapping[str, Mapping[str, Any]], seeds: Sequence[int], sample: Sample) -> list[Row]:
    """Compare the masks of the sampled images; recipes of the highest predicted quality first, the unknown last.

    Memory: at most 4096 cells of 2 bytes (4 for 16-bit masks) for each sampled image, recipe and compared seed.
    """
    if not sample.measured:
        return []
    rounds = {name: int(body["rounds"]) for name, body in recipes.items()}
    wanted = [(name, seed, last) for name, last in rounds.items() for seed in seeds[:SEEDS]]
    wanted += [(name, seeds[0], last - 1) for name, last in rounds.items() if last]
    if len(wanted) < 2:
        return [Row(name, None, None, None, None, None, [], []) for name in recipes]
    ids, starts, maps = _read(results, wanted, sample)
    places = {picture.id: i for i, picture in enumerate(sample.gallery)}
    compared = _Compared(maps)
    rows = []
    for name, last in rounds.items():
        own = [(name, seed, last) for seed in seeds[:SEEDS]]
        others = [(other, seeds[0], end) for other, end in rounds.items() if other != name]
        between, with_others = compared.mean(combinations(own, 2)), compared.mean((own[0], b) for b in others)
        along = compared.mean([(own[0], (name, seeds[0], last - 1))] if last else [])
        partners = [*own[1:], *others]
        rows.append(
            Row(
                name,
                compared.values(own[0]),
                with_others if len(recipes) >= RANKED else None,
                with_others,
                between,
                along,
                compared.classes(own[0], partners),
                compared.images(own[0], partners, ids, starts, places),
            )
        )
    return sorted(rows, key=lambda row: (row.predicted is None, -(row.predicted or 0.0)))


Key = tuple[str, int, int]  # recipe, seed, round


class _Compared:
    """Pairs of label maps; each table is counted once."""

    def __init__(self, maps: Mapping[Key, Labelled]) -> None:
        self.maps = maps
        self._tables: dict[tuple[Key, Key], np.ndarray] = {}

    def table(self, a: Key, b: Key) -> np.ndarray | None:
        """Cells by their labels, [labels of a, labels of b]; None where they cannot be compared."""
        if max(self.maps[a].size, self.maps[b].size) > LABELS:
            return None
        if (a, b) not in self._tables:
            sizes = self.maps[a].size, self.maps[b].size
            counts = table(self.maps[a].labels, self.maps[b].labels, sizes)
            self._tables[a, b], self._tables[b, a] = counts, counts.T
        return self._tables[a, b] if self._tables[a, b].any() else None

    def values(self, key: Key) -> int:
        """Different labels that a map has."""
        labels = self.maps[key].labels
        return int(np.count_nonzero(np.bincount(labels[labels != OPEN], minlength=1)))

    def mean(self, pairs: Iterable[tuple[Key, Key]]) -> float | None:
        """Mean adjusted Rand index of the pairs that can be compared."""
        values = [adjusted_rand(found) for a, b in pairs if (found := self.table(a, b)) is not None]
        return float(np.mean(values)) if values else None

    def classes(self, mine: Key, partners: Sequence[Key]) -> list[ClassRow]:
        """The values of a map that occur, the least agreed on first; background is one of them."""
        tables = [found for other in partners if (found := self.table(mine, other)) is not None]
        if not tables:
            return []
        labels = self.maps[mine].labels
        cells = np.bincount(labels[labels != OPEN], minlength=self.maps[mine].size)
        fits = np.array([best_iou(found) for found in tables])  # [partners, labels]
        known = np.flatnonzero(np.isfinite(fits).any(axis=0))
        rows = [ClassRow(int(v), float(cells[v] / cells.sum()), float(np.nanmean(fits[:, v]))) for v in known]
        return sorted(rows, key=lambda row: (row.agreement, row.value))[:CLASSES_SHOWN]

    def images(
        self, mine: Key, partners: Sequence[Key], ids: Sequence[str], starts: np.ndarray, places: Mapping[str, int]
    ) -> list[ImageRow]:
        """The images whose cells agree least, mean over the partners; images without a common cell are left out."""
        said, known = np.zeros(len(ids)), np.zeros(len(ids))
        for other in partners:
            counts = self.table(mine, other)
            if counts is None:
                continue
            each = agreeing(self.maps[mine].labels, self.maps[other].labels, same(counts))
            said += np.add.reduceat(np.nan_to_num(each), starts)
            known += np.add.reduceat(np.isfinite(each), starts)
        rows = [
            ImageRow(image_id, places.get(image_id), float(yes / every))
            for image_id, yes, every in zip(ids, said, known, strict=True)
            if every
        ]
        return sorted(rows, key=lambda row: (row.agreement, row.id))[:IMAGES_SHOWN]


def _read(results: Path, wanted: Sequence[Key], sample: Sample) -> tuple[list[str], np.ndarray, dict[Key, Labelled]]:
    """Sampled ids, the first cell of each, and all maps on one grid an image: that of the photo, SIDE cells long."""
    pictures = sample.pictures([image_id for ids in sample.statistics.values() for image_id in ids])
    parts: dict[Key, list[np.ndarray]] = defaultdict(list)
    names: list[str] = []
    cells: list[int] = []
    for shard, ids in sample.statistics.items():
        names += ids
        grids = [_grid(pictures[image_id].height, pictures[image_id].width) for image_id in ids]
        cells += [h * w for h, w in grids]
        for key in wanted:
            masks = read_images(_facts.mask_store(results, *key, shard), ids)
            parts[key] += [_labels(masks[image_id], grid) for image_id, grid in zip(ids, grids, strict=True)]
    starts = np.concatenate([[0], np.cumsum(cells)[:-1]]).astype(np.int64)
    maps = {key: np.concatenate(each) for key, each in parts.items()}
    return names, starts, {key: Labelled(labels, int(labels.max(initial=0)) + 1) for key, labels in maps.items()}


def _grid(height: int, width: int) -> tuple[int, int]:
    longest = max(height, width)
    return max(1, round(SIDE * height / longest)), max(1, round(SIDE * width / longest))


def _labels(mask: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    small = to_size(mask, grid).ravel()
    labels = small.astype(np.int16 if mask.dtype == np.uint8 else np.int32)
    labels[small == ignore_value(mask.dtype)] = OPEN
    return labels

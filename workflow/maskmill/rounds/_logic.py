"""The options of round logic, each a named function: which images feed a round, where a student starts, its ids."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from maskmill.errors import ConfigError
from maskmill.images.masks import ignore_value, to_size
from maskmill.recipe.sections import Rounds
from maskmill.store.artefact import read_table, read_tensors


@dataclass(frozen=True)
class History:
    """What a round may read of the rounds before it; each only where an option asks for it.

    Attributes:
        student: file of the student of round - 1. confidence: stores beside its masks. earlier: masks of round - 2.
        assignments: Parquet tables (image, region, cluster, distance) of all shards.
        held: store of the masks of labelled images, whose known pixels stay as they are.
    """

    student: str | Path | None = None
    confidence: Sequence[str | Path] = ()
    earlier: Sequence[str | Path] = ()
    assignments: Sequence[str | Path] = ()
    held: str | Path | None = None


def every_image(logic: Rounds, round: int, history: History) -> set[str] | None:
    """All images feed every round."""
    return None


def surest_images(logic: Rounds, round: int, history: History) -> set[str] | None:
    """The share of images whose regions lie closest to their centres feeds round 1; all images feed later rounds.

    COMUS trains its first round on a part of the data and the second on all. An image is as sure as its regions are on
    average; a region's place is its rank by distance within its cluster, so that clusters of any spread count alike.
    Regions without a cluster or class do not count, and images of nothing else do not feed round 1.
    """
    if round > 1:
        return None
    if not history.assignments:
        raise ConfigError("rounds.images: surest needs the regions' distances; give --assignments, or use images: all")
    columns = [read_table(path, ["image", "cluster", "distance"]) for path in history.assignments]
    image, cluster, distance = (
        np.concatenate([np.asarray(t[c]) for t in columns]) for c in ("image", "cluster", "distance")
    )
    kept_ones = cluster >= 0  # what a taxonomy ignores or calls background is no class, and noise no cluster
    image, cluster, distance = image[kept_ones], cluster[kept_ones], distance[kept_ones]
    doubt = np.zeros(len(image))
    for c in np.unique(cluster):
        mine = cluster == c
        values = np.sort(distance[mine])
        low, high = (np.searchsorted(values, distance[mine], side) for side in ("left", "right"))
        doubt[mine] = (low + high) / (2 * len(values))  # equal distances share their mean rank
    names, place = np.unique(image, return_inverse=True)
    mean = np.bincount(place, doubt) / np.bincount(place)
    kept = math.ceil(logic.share * len(names) - 1e-9)
    return {str(names[i]) for i in np.lexsort((names, mean))[:kept]}


@dataclass(frozen=True)
class StoredStudent:
    """What the file of a student holds: its tensors by name, and the provenance in its metadata."""

    tensors: dict[str, np.ndarray]
    provenance: dict[str, Any]

    @classmethod
    def read(cls, path: str | Path | None) -> StoredStudent | None:
        """From its file; None where there is none."""
        return None if path is None else cls(*read_tensors(path))


def fresh_start(previous: StoredStudent | None) -> dict[str, np.ndarray]:
    """New weights: no tensors to go on from."""
    return {}


def continued_start(previous: StoredStudent | None) -> dict[str, np.ndarray]:
    """The tensors of the student of the round before; round 1 has none and starts fresh."""
    return {} if previous is None else previous.tensors


def kept_ids(overlap: np.ndarray) -> np.ndarray:
    """Every class keeps its id."""
    return np.arange(len(overlap))


def matched_ids(overlap: np.ndarray) -> np.ndarray:
    """New id of every class [k + 1]: one to one, the most cells in common with the masks before; background stays.

    Args:
        overlap: [k + 1, k + 1] cells, predicted class by class of the masks that it was trained on.
    """
    from scipy.optimize import linear_sum_assignment

    gain = overlap[1:, 1:] + np.eye(len(overlap) - 1) / (2 * len(overlap))  # between equals an id stays
    _, new = linear_sum_assignment(gain, maximize=True)
    return np.concatenate([[0], new + 1]).astype(np.int64)


IMAGES: dict[str, Callable[[Rounds, int, History], set[str] | None]] = {"all": every_image, "surest": surest_images}
START: dict[str, Callable[[StoredStudent | None], dict[str, np.ndarray]]] = {
    "fresh": fresh_start,
    "continue": continued_start,
}
MATCH: dict[str, Callable[[np.ndarray], np.ndarray]] = {"none": kept_ids, "hungarian": matched_ids}


def overlap(pairs: Iterable[tuple[np.ndarray, np.ndarray]], classes: int) -> np.ndarray:
    """Cells [classes, classes] int64 of (predicted, taught) masks, the prediction read at the taught mask's size."""
    counts = np.zeros(classes * classes, np.int64)
    for predicted, taught in pairs:
        known = taught != ignore_value(taught.dtype)
        key = to_size(predicted, (taught.shape[0], taught.shape[1]))[known].astype(np.int64) * classes + taught[known]
        counts += np.bincount(key, minlength=classes * classes)
    return counts.reshape(classes, classes)


def rename(tensors: dict[str, Any], classifier: Sequence[str], new: np.ndarray) -> dict[str, Any]:
    """Tensors of a student whose class c is now called new[c]; `classifier` names those with a row a class."""
    old = np.argsort(new)  # the class that comes to each place
    return tensors | {name: tensors[name][old] for name in classifier}

"""Panoptic quality: PQ, SQ and RQ of predicted segments (Kirillov et al., Panoptic Segmentation, CVPR 2019).

A panoptic map gives each pixel to one segment or to none: a thing has a segment for each object, stuff one an image. A
predicted and a true segment of one class match where their IoU is above one half, which no two can do with the same
third. Void pixels of the truth count in no union, and an unmatched predicted segment that lies in void by more than
half is no mistake, as in the published code (cocodataset/panopticapi).

Everything here works on arrays; `maskmill.evaluate.run_panoptic` reads the files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from maskmill.evaluate.matching import hungarian_counts, many_to_one
from maskmill.evaluate.truth import components
from maskmill.images.instances import Instances, ranked

OVERLAP = 0.5  # an instance of which better ones have more than this share is left out (Kirillov et al., section 4.1)
NONE = -1  # class of pixels and rows that stand for none


@dataclass(frozen=True)
class Segments:
    """A panoptic map of one image.

    Attributes:
        ids: int32 [H, W], 0 = no segment, else 1..n. classes: int64 [n], the class column of each.
    """

    ids: np.ndarray
    classes: np.ndarray

    @classmethod
    def of(cls, stuff: np.ndarray, things: np.ndarray, thing_classes: np.ndarray) -> Segments:
        """Of stuff and things that do not overlap; things that have no pixel are gone.

        Args:
            stuff: int64 [H, W], class of pixels that are stuff, else NONE. things: int32 [H, W], 0 or 1..m.
            thing_classes: int64 [m].
        """
        present = np.flatnonzero(np.bincount(things.ravel(), minlength=len(thing_classes) + 1)[1:])
        table = np.zeros(len(thing_classes) + 1, np.int32)
        table[present + 1] = np.arange(1, len(present) + 1)
        kinds = np.unique(stuff[stuff >= 0])
        ids = table[things]
        amorphous = stuff >= 0
        ids[amorphous] = len(present) + 1 + np.searchsorted(kinds, stuff[amorphous])
        return cls(ids, np.concatenate([thing_classes[present], kinds]).astype(np.int64))


def true_segments(columns: np.ndarray, instances: np.ndarray | None, is_thing: np.ndarray, least: float) -> Segments:
    """The labelled segments of an image.

    A pixel of a thing that no instance image gives an object is void; so is a thing below `least` of all pixels.

    Args:
        columns: int64 [H, W], class of each pixel, NONE where it is void. instances: ids [H, W] of objects, 0 = none,
            an object of two classes is two things; or None: connected parts (8 neighbours) of each class are things.
        is_thing: bool [classes].
    """
    thing = (columns >= 0) & is_thing[columns]
    if instances is None:
        things = components(np.where(thing, columns + 1, 0))
    else:
        pair = np.where(thing & (instances > 0), columns * (int(instances.max(initial=0)) + 1) + instances, NONE)
        values, places = np.unique(pair, return_inverse=True)
        things = (places.reshape(pair.shape) + (0 if len(values) and values[0] == NONE else 1)).astype(np.int32)
    count = int(things.max(initial=0))
    classes = np.zeros(count + 1, np.int64)
    classes[things.ravel()] = columns.ravel()
    large = np.bincount(things.ravel(), minlength=count + 1) >= least * columns.size
    return Segments.of(np.where(thing, NONE, columns), np.where(large[things], things, 0), classes[1:])


def found_segments(
    rows: np.ndarray, match: np.ndarray, is_thing: np.ndarray, instances: Instances | None = None
) -> Segments:
    """The predicted segments of an image.

    Without instances, each connected part (8 neighbours) of a thing class is one. With them, those of a thing class
    are, in the order of their scores: the pixels of their mask that the painted mask shows as their class and that no
    better one has; an instance more than half of whose mask better ones have is left out. What no instance has is
    stuff where the painted mask shows some, and nothing else.

    Args:
        rows: int64 [H, W], painted mask as rows of the matching. match: int64, the class column of each row or NONE.
        is_thing: bool [classes]. instances: at the same pixels, without void.
    """
    columns = match[rows]
    thing = (columns >= 0) & is_thing[columns]
    stuff = np.where(thing, NONE, columns)
    if instances is None:
        things = components(np.where(thing, columns + 1, 0))
        classes = np.zeros(int(things.max(initial=0)) + 1, np.int64)
        classes[things.ravel()] = columns.ravel()
        return Segments.of(stuff, things, classes[1:])
    things, owners = np.zeros(rows.shape, np.int32), [NONE]
    taken = np.zeros(rows.shape, bool)
    for i in ranked(instances.scores):
        mask, label = instances.masks[i], int(instances.labels[i])
        area = int(mask.sum())
        if not area or int((mask & taken).sum()) > OVERLAP * area:
            continue
        own = mask & ~taken & (rows == label)
        taken |= own
        if thing[own].any():  # of one row all are or none is
            owners.append(int(match[label]))
            things[own] = len(owners) - 1
    return Segments.of(stuff, things, np.array(owners[1:], np.int64))


class Quality:
    """Adds up images, and says PQ, SQ and RQ of every class."""

    def __init__(self, classes: int) -> None:
        self.hits: list[list[float]] = [[] for _ in range(classes)]  # IoU of each true positive
        self.false, self.missed = np.zeros(classes, np.int64), np.zeros(classes, np.int64)

    def add(self, truth: Segments, found: Segments) -> None:
        """Count one image: two maps of the same size."""
        width = len(found.classes) + 1
        flat = truth.ids.astype(np.int64).ravel() * width + found.ids.ravel()
        both = np.bincount(flat, minlength=(len(truth.classes) + 1) * width).reshape(-1, width)
        area, in_void = both.sum(axis=0)[1:], both[0, 1:]
        inside = both[1:, 1:]
        union = both[1:].sum(axis=1)[:, None] + (area - in_void)[None] - inside
        pairs = (2 * inside > union) & (truth.classes[:, None] == found.classes[None])
        for i, j in np.argwhere(pairs):
            self.hits[truth.classes[i]].append(int(inside[i, j]) / int(union[i, j]))
        np.add.at(self.missed, truth.classes[~pairs.any(axis=1)], 1)
        wrong = ~pairs.any(axis=0) & (2 * in_void <= area)
        np.add.at(self.false, found.classes[wrong], 1)

    def of(self, column: int) -> dict[str, float] | None:
        """PQ, SQ, RQ and the numbers behind them of a class; None where it was neither labelled nor found."""
        hits, false, missed = self.hits[column], int(self.false[column]), int(self.missed[column])
        if not (hits or false or missed):
            return None
        segments = len(hits) + 0.5 * (false + missed)
        quality = math.fsum(hits) / len(hits) if hits else 0.0
        numbers = {"hits": len(hits), "false": false, "missed": missed}
        return {"pq": math.fsum(hits) / segments, "sq": quality, "rq": len(hits) / segments} | numbers

    def mean(self, columns: Sequence[int]) -> dict[str, float | None]:
        """PQ, SQ and RQ as means over those of some classes that occur; None where none does."""
        known = [each for each in map(self.of, columns) if each is not None]
        if not known:
            return {"pq": None, "sq": None, "rq": None}
        return {key: math.fsum(each[key] for each in known) / len(known) for key in ("pq", "sq", "rq")}


def matched(rule: str, counts: np.ndarray, is_thing: np.ndarray, thing_rows: np.ndarray | None = None) -> np.ndarray:
    """Class column of every row, or NONE: what the pixels of a cluster are taken for.

    Args:
        rule: a name in `RULES`. counts: int64 [rows, classes], pixels; every class has some. is_thing: bool [classes].
        thing_rows: int64 [rows]: 1 where a row is known to be of things, 0 of stuff, NONE of neither; with it things
            are matched with things alone, and stuff with stuff. None: any row with any class.
    """
    if thing_rows is None:
        return _matched(rule, counts)
    found = np.full(len(counts), NONE, np.int64)
    for kind in (True, False):
        rows, columns = np.flatnonzero(thing_rows == kind), np.flatnonzero(is_thing == kind)
        if len(rows) and len(columns):
            part = _matched(rule, counts[np.ix_(rows, columns)])
            found[rows] = np.where(part >= 0, columns[part], NONE)
    return found


def _matched(rule: str, counts: np.ndarray) -> np.ndarray:
    if rule == "many_to_one":
        return many_to_one(counts)
    found = hungarian_counts(counts)
    if rule == "hungarian_majority":
        found = np.where(found < 0, many_to_one(counts), found)
    return found


RULES = {
    "hungarian_counts": "one cluster a class, largest sum of matched pixels; segments of surplus clusters are none",
    "hungarian_majority": "one cluster a class, largest sum of matched pixels; surplus clusters their majority class",
    "many_to_one": "each cluster its majority class by pixels",
}


def result(quality: Quality, names: Sequence[str], is_thing: np.ndarray, match: Mapping[int, int]) -> dict[str, Any]:
    """The numbers of one rule as JSON values.

    Args:
        names: of the classes. match: row -> class column.
    """
    kinds = {"": range(len(names)), "_things": np.flatnonzero(is_thing), "_stuff": np.flatnonzero(~is_thing)}
    means = {kind: quality.mean([int(column) for column in columns]) for kind, columns in kinds.items()}
    found = {f"{key}{kind}": value for kind, mean in means.items() for key, value in mean.items()}
    per_class = {name: quality.of(column) for column, name in enumerate(names)}
    return found | {"per_class": per_class, "matching": {str(row): names[c] for row, c in match.items()}}

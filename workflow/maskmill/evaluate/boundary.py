"""How well the boundaries of each class are met: precision, recall and their F within a tolerance, image by image.

Csurka, Larlus, Perronnin, "What is a good evaluation measure for semantic segmentation?", BMVC 2013, section 3 (one
score a class and image, 0.75 % of the diagonal), with the counting of Perazzi et al., "A benchmark dataset and
evaluation methodology for video object segmentation", CVPR 2016 (the tolerance is rounded up to whole pixels; a side
without any boundary has precision, or recall, 1).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from maskmill.evaluate.confusion import at_frame, frame
from maskmill.evaluate.labelled import class_label
from maskmill.evaluate.protocol import Protocol
from maskmill.recipe.scoring import Boundary, Evaluate

VOID, NONE = -1, -2  # of class maps: pixels that never count, and predictions of no class
RULES = {
    "boundary": "pixels of a class beside (4 neighbours) a pixel that is not of it; the border of the image and pixels"
    " beside void are none",
    "met": "a pixel of the other side's boundary is no further than the tolerance, a share of the diagonal rounded up"
    " to whole pixels",
    "mean": "F of each class and image where either side has a boundary, then over images, then over classes",
}


class BoundaryProtocol(Protocol):
    """A protocol of boundaries: that of the matching, and in `details` how boundaries are compared."""

    name: str  # type: ignore[assignment]


def boundary(inside: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Boundary bool [H, W] of a class, `inside` bool [H, W], among pixels that are seen [H, W] (not void)."""
    edge = np.zeros(inside.shape, bool)
    leaves = inside & seen
    for axis in (0, 1):
        one, two = (slice(None),) * axis + (slice(None, -1),), (slice(None),) * axis + (slice(1, None),)
        edge[one] |= leaves[one] & ~inside[two] & seen[two]
        edge[two] |= leaves[two] & ~inside[one] & seen[one]
    return edge


def met(edge: np.ndarray, other: np.ndarray, reach: float) -> float:
    """Share of the pixels of a boundary that are within `reach` pixels of another one; 1 where it has none."""
    from scipy.ndimage import distance_transform_edt

    count = int(edge.sum())
    if not count:
        return 1.0
    if not other.any():
        return 0.0
    return float((distance_transform_edt(~other)[edge] <= reach).sum() / count)


def compared(found: np.ndarray, wanted: np.ndarray, classes: int, reach: float) -> np.ndarray:
    """Precision, recall and F [classes, 3] of class maps int [H, W]; NaN where neither side has a boundary.

    Args:
        found: class column of each pixel, NONE where none is predicted. wanted: that of the label, VOID where void.
    """
    out = np.full((classes, 3), np.nan)
    seen = wanted != VOID
    for c in range(classes):
        inside, true = found == c, wanted == c
        if not (inside & seen).any() and not true.any():
            continue
        mine, theirs = boundary(inside, seen), boundary(true, seen)
        if mine.any() or theirs.any():
            precision, recall = met(mine, theirs, reach), met(theirs, mine, reach)
            both = precision + recall
            out[c] = precision, recall, 2 * precision * recall / both if both else 0.0
    return out


class BoundaryTally:
    """Boundaries of one set of masks under one matching.

    Args:
        entry: of `scores`, with the matching. rows: prediction rows, of which the last is predicted ignore.
    """

    def __init__(self, entry: Mapping[str, Any], rows: int, settings: Evaluate, asked: Boundary) -> None:
        self._entry, self._settings, self._asked = entry, settings, asked
        self._classes: Sequence[int] = entry["protocol"]["classes"]
        self._names = [class_label(c, settings.class_names) for c in self._classes]
        self._row = np.full(rows, NONE, np.int64)
        for row, name in entry["matching"].items():
            self._row[int(row)] = self._names.index(name)
        self._seen = 0
        self._sum, self._count = np.zeros((len(self._classes), 3)), np.zeros(len(self._classes), np.int64)

    def add(self, mask: np.ndarray, label: np.ndarray, valid: np.ndarray | None = None) -> None:
        """Compare one image: rows int [h, w] of its mask, label ids [H, W], which cells [h, w] show data."""
        height, width = label.shape
        shape, window = frame(height, width, self._settings.size)
        wanted = np.full(1 << 16, VOID, np.int64)
        wanted[list(self._classes)] = np.arange(len(self._classes))
        truth = wanted[at_frame(label, shape, window)]
        if valid is not None:
            truth = np.where(at_frame(valid, shape, window), truth, VOID)
        reach = math.ceil(self._asked.tolerance * math.hypot(*truth.shape))
        found = compared(self._row[at_frame(mask, shape, window)], truth, len(self._classes), reach)  # [classes, 3]
        there, self._seen = ~np.isnan(found[:, 2]), self._seen + 1
        self._sum[there] += found[there]
        self._count += there

    def entry(self) -> dict[str, Any]:
        """One entry of `boundary`: means over the classes that have a boundary anywhere, and the F of each class."""
        means = self._sum / np.maximum(self._count, 1)[:, None]  # [classes, 3]
        rule = {key: value for key, value in self._entry["protocol"].items() if key != "hash"}
        told = rule["details"] | {"tolerance": self._asked.tolerance, "rules": RULES}
        made = BoundaryProtocol(**rule | {"name": f"boundary_{rule['name']}", "details": told})
        known = self._count > 0
        shares = means[known].mean(0) if known.any() else [None] * 3
        names = ("boundary_precision", "boundary_recall", "boundary_f")
        values = {name: None if v is None else float(v) for name, v in zip(names, shares, strict=True)}
        per_class = {n: float(m) if k else None for n, m, k in zip(self._names, means[:, 2], known, strict=True)}
        return {"protocol": made.as_dict(), **values, "per_class": per_class, "images": self._seen}

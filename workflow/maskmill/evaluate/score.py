"""From one confusion matrix to the scores of all protocols, as JSON values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from maskmill.errors import InputError
from maskmill.evaluate.labelled import class_label
from maskmill.evaluate.matching import MATCHERS, Metrics, by_name, hungarian_iou_background, metrics
from maskmill.evaluate.protocol import Protocol


def score(
    counts: np.ndarray, match: np.ndarray, protocol: Protocol, classes: Sequence[int], names: Mapping[int, str]
) -> dict[str, Any]:
    """One entry of `scores`.

    Args:
        counts: [rows, classes] int64, classes that occur only.
        match: [<= rows] int64, from a matcher.
        classes: label ids of the columns; other classes of the protocol are named as absent and have no IoU.
    """
    result: Metrics = metrics(counts, match)
    iou: dict[str, float | None] = {class_label(c, names): None for c in protocol.classes}
    iou |= {class_label(c, names): float(value) for c, value in zip(classes, result.iou, strict=True)}
    return {
        "protocol": protocol.as_dict(),
        "accuracy": result.accuracy,
        "miou": result.miou,
        "per_class": iou,
        "discovered": result.discovered,
        "absent": [name for name, value in iou.items() if value is None],
        "matching": {str(row): class_label(classes[match[row]], names) for row in np.flatnonzero(match >= 0)},
        "unmatched": result.unmatched,
        "images": protocol.images,
        "pixels": int(counts.sum()),
    }


def score_clusters(
    counts: np.ndarray,
    protocols: Sequence[Protocol],
    classes: Sequence[int],
    names: Mapping[int, str],
    per_image: np.ndarray | None = None,
    row_names: Mapping[int, str] | None = None,
) -> list[dict[str, Any]]:
    """Scores of the same masks by each protocol.

    Args:
        counts: [clusters + 2, classes] int64: background, clusters, predicted ignore. The last row is never matched.
        classes: label ids of the columns. A class without a pixel cannot be scored: it is left out of the matching
            and of the mean, and named.
        per_image: [classes + 1, classes] int64 of `PerImage` with the same columns, for oracle_per_image.
        row_names: row -> name of the class that it predicts, for named.

    Raises:
        InputError: no class has a pixel, or the background that surplus clusters predict has none.
    """
    there = np.append(counts.any(axis=0), True)
    counts, present = drop_absent(counts, classes)
    found = []
    for rule in protocols:
        if rule.name == "oracle_per_image":
            assert per_image is not None
            entry = score(per_image[there][:, there[:-1]], np.arange(len(present)), rule, present, names)
            del entry["matching"]  # another one in every image
        elif rule.name == "named":
            columns = [class_label(c, names) for c in present]
            entry = score(counts, by_name(row_names or {}, columns, len(counts) - 1), rule, present, names)
        else:
            entry = score(counts, _match(rule, counts[:-1], present), rule, present, names)
        found.append(entry)
    return found


def _match(rule: Protocol, counts: np.ndarray, classes: Sequence[int]) -> np.ndarray:
    if rule.name != "hungarian_iou_background":
        return MATCHERS[rule.name](counts)
    background = rule.details["background"]
    if background not in classes:
        raise InputError(
            f"evaluate.background: {background}: no label has a pixel of it; name one of {list(classes)}, or drop "
            "the protocol hungarian_iou_background"
        )
    return hungarian_iou_background(counts, classes.index(background))


def drop_absent(counts: np.ndarray, classes: Sequence[int]) -> tuple[np.ndarray, list[int]]:
    """Columns that have pixels, and their label ids.

    Raises:
        InputError: no column has any.
    """
    there = np.asarray(counts.any(axis=0))
    if not there.any():
        asked = f"classes {list(classes)}" if len(classes) else "any class"
        raise InputError(
            f"evaluate.classes: no label has a pixel of {asked}; "
            "name ids that occur in the labels, or leave evaluate.classes out"
        )
    return counts[:, there], [c for c, keep in zip(classes, there, strict=True) if keep]

"""Ways in which a few labelled images, or a few names, say the class of every token; scores, draws and a table of them.

Scores are mIoU and pixel accuracy in percent, from one confusion matrix over all scored pixels, at the size of the
labels; class scores are interpolated before the best one is taken.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from _tokens import Tokens

from maskmill.evaluate.matching import hungarian_iou
from maskmill.evaluate.readout import argmax_at
from maskmill.images.decode import decode, resize
from maskmill.images.interpolate import best_scores
from maskmill.images.masks import to_size
from maskmill.numerics import multinomial
from maskmill.numerics.neighbours import unit_rows
from maskmill.recipe.sections import Refine
from maskmill.refine import refine_scores, refine_step
from maskmill.store.codebook import Codebook, assign
from maskmill.store.ragged import Ragged
from maskmill.taxonomy import _neighbours, _probe, _votes

STUDENT_PENALTY = 1e-2
UPSAMPLE = 4  # mask cells a token side, the default of the stage paint
Method = Callable[[Tokens, Sequence[int], Codebook, np.ndarray], np.ndarray]


def by_clusters(known: Tokens, labelled: Sequence[int], book: Codebook, x: np.ndarray) -> np.ndarray:
    """Names of clusters, spread and mixed."""
    rows = known.rows(labelled)
    named = _votes.fit(known.vectors[rows], known.shares[rows], book)
    return _votes.score(x, book, named.shares)


def by_majority(known: Tokens, labelled: Sequence[int], book: Codebook, x: np.ndarray) -> np.ndarray:
    """The plain way: the most frequent class of each cluster that has labels; vectors go to the nearest of these."""
    rows = known.rows(labelled)
    cells, shares = assign(known.vectors[rows], book)[0], known.shares[rows]
    votes = np.zeros((len(book), shares.shape[1]))
    np.add.at(votes, cells, shares)
    seen = np.flatnonzero(votes.any(axis=1))
    best = np.eye(shares.shape[1], dtype=np.float32)[votes[seen].argmax(axis=1)]
    return best[assign(x, Codebook(book.centroids[seen], book.counts[seen], 0.0, book.spherical))[0]]


def by_probe(known: Tokens, labelled: Sequence[int], book: Codebook, x: np.ndarray) -> np.ndarray:
    """A linear probe of the labelled images alone."""
    rows = known.rows(labelled)
    image = np.repeat(np.arange(len(labelled)), known.grids[list(labelled)].prod(axis=1))
    return _probe.score(x, _probe.fit(known.vectors[rows], known.shares[rows], image))


def by_neighbours(known: Tokens, labelled: Sequence[int], book: Codebook, x: np.ndarray) -> np.ndarray:
    """The nearest labelled tokens."""
    rows = known.rows(labelled)
    return _neighbours.score(x, _neighbours.fit(known.vectors[rows], known.shares[rows]))


METHODS: dict[str, Method] = {
    "majority of a cluster": by_majority,
    "clusters": by_clusters,
    "probe": by_probe,
    "neighbours": by_neighbours,
}


def scored(known: Tokens, images: Sequence[int], chances: np.ndarray) -> tuple[float, float]:
    """MIoU and pixel accuracy, in percent, of class probabilities [n, K] of all tokens of some images."""
    return metrics(confusion(known, images, chances))


def confusion(known: Tokens, images: Sequence[int], chances: np.ndarray) -> np.ndarray:
    """Pixels by true class and by the column [K', of any number] of the largest interpolated score: [classes, K']."""
    columns, at = chances.shape[1], 0
    counts = np.zeros((len(known.classes), columns), np.int64)
    for i in images:
        h, w = known.grids[i]
        maps = np.ascontiguousarray(chances[at : at + h * w].T.reshape(columns, h, w))
        at += h * w
        counts += pairs(known.labels[i], argmax_at(maps, known.labels[i].shape), counts.shape)
    return counts


def refined(known: Tokens, images: Sequence[int], chances: np.ndarray, photos: Sequence[Path]) -> np.ndarray:
    """`confusion` of masks that a dense CRF fits to the photos, as `paint: {refine: crf}` does: [K, K]."""
    classes, at = chances.shape[1], 0
    counts = np.zeros((len(known.classes), classes), np.int64)
    step, crf = refine_step(UPSAMPLE), Refine(method="crf")
    for i in images:
        h, w = known.grids[i]
        maps = np.ascontiguousarray(chances[at : at + h * w].T.reshape(classes, h, w))
        at += h * w
        size = (int(h) * UPSAMPLE, int(w) * UPSAMPLE)
        photo = resize(decode(photos[i]), (size[0] * step, size[1] * step))
        best = refine_scores(np.log(np.maximum(maps, 1e-6)), best_scores(maps, size), photo, crf)
        label = known.labels[i]
        counts += pairs(label, to_size(best, (label.shape[0], label.shape[1])), counts.shape)
    return counts


def pairs(label: np.ndarray, predicted: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Pixels by label and prediction, int64 of a shape; void ones are not counted."""
    valid = label < shape[0]
    both = label[valid].astype(np.int64) * shape[1] + predicted[valid]
    return np.bincount(both, minlength=shape[0] * shape[1]).reshape(shape)


def metrics(counts: np.ndarray) -> tuple[float, float]:
    """MIoU and pixel accuracy, in percent, of pixels by true class and by prediction [K, at least K]."""
    hits = np.diag(counts)
    union = counts.sum(axis=0)[: len(counts)] + counts.sum(axis=1) - hits
    present = counts.sum(axis=1) > 0
    return 100 * float((hits / np.maximum(union, 1))[present].mean()), 100 * float(hits.sum() / counts.sum())


def matched(counts: np.ndarray) -> tuple[float, float]:
    """`metrics` of clusters without names, pixels by true class and by cluster: matched one to one, largest sum of IoU.

    The matching looks at the labels that are scored, which names must not do; clusters without a match are wrong.
    """
    match = hungarian_iou(counts.T.copy())
    named = np.zeros((len(counts), len(counts) + 1), np.int64)
    for cluster, column in enumerate(match):
        named[:, column] += counts[:, cluster]  # -1 is the last column: no class
    return metrics(named)


def masks_of(folder: Path, known: Tokens) -> list[np.ndarray]:
    """The masks of a finished run, uint8 [H, W] of each image at the size of its label; folder: its `masks`."""
    found: dict[str, np.ndarray] = {}
    for store in sorted(folder.glob("*.zarr")):
        found |= dict(Ragged(store, "masks").images())
    both = zip(known.ids, known.labels, strict=True)
    return [to_size(found[i], (label.shape[0], label.shape[1])) for i, label in both]


class Results:
    """Scores by (part, row, column), written as they come; what is there already is not computed again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}

    def of(self, key: str, compute: Callable[[], Any]) -> Any:
        """The value of a key."""
        if key not in self.found:
            began = time.process_time()
            self.found[key] = compute()
            print(f"{key}: {self.found[key]}, {time.process_time() - began:.0f} CPU s", flush=True)
            self.path.write_text(json.dumps(self.found, indent=1))
        return self.found[key]

    def table(self, part: str) -> str:
        """Mean and standard deviation over draws, as Markdown."""
        cells: dict[str, dict[str, list[Any]]] = {}
        for key, value in self.found.items():
            name, row, column = key.split("|")[:3]
            if name == part:
                cells.setdefault(row, {}).setdefault(column, []).append(value)
        columns = list(dict.fromkeys(column for row in cells.values() for column in row))
        lines = [f"| {part} | " + " | ".join(columns) + " |", "|---|" + "---:|" * len(columns)]
        for row, found in cells.items():
            lines.append(f"| {row} | " + " | ".join(_cell(found.get(column, [])) for column in columns) + " |")
        return "\n".join(lines)


def _cell(values: Sequence[Any]) -> str:
    if not values:
        return ""
    table = np.array(values, float)
    spread = f" ± {table[:, 0].std():.1f}" if len(table) > 1 else ""
    return f"{table[:, 0].mean():.1f}{spread} / {table[:, 1].mean():.1f}"


def by_student(known: Tokens, labelled: Sequence[int], book: Codebook, x: np.ndarray, sample: np.ndarray) -> np.ndarray:
    """A linear student of tokens whose targets the clusters say, and of labelled ones, half as heavy together."""
    rows = known.rows(labelled)
    told = known.shares[rows] * _votes.weights(known.shares[rows], 0.5)
    guessed = by_clusters(known, labelled, book, known.vectors[sample])
    targets = np.concatenate([guessed, told * (0.5 * len(guessed) / told.sum())]).astype(np.float32)
    points = unit_rows(known.vectors[np.concatenate([sample, rows])].astype(np.float32))
    model, _ = multinomial.fit(points, targets, STUDENT_PENALTY, 1, "cpu")
    return _probe.score(x, _probe.Probe(model.weight, model.bias, STUDENT_PENALTY))


def drawn(images: Sequence[int], count: int, draw: int) -> list[int]:
    """Some of the images, by the draw."""
    return sorted(np.random.default_rng((count, draw)).choice(images, count, replace=False).tolist())


def of_each_class(known: Tokens, images: Sequence[int], count: int, draw: int) -> list[int]:
    """So many images of each class but the first, the background; a class counts from a hundredth of an image."""
    shown = np.array([np.bincount(known.labels[i].ravel(), minlength=256)[: len(known.classes)] for i in images])
    area = np.array([known.labels[i].size for i in images])
    shows, rng = shown > 0.01 * area[:, None], np.random.default_rng((count, draw))
    several = (rng.choice(np.flatnonzero(column), count, replace=False) for column in shows.T[1:])
    return sorted({images[int(i)] for some in several for i in some})

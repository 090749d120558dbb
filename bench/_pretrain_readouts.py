"""Read-outs of a backbone, each a function of arrays: nearest neighbours, clusters of tokens, retrieval.

Nothing here reads a file or draws a number but by the seed that it is given. Scores are in percent.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from maskmill.errors import NumericsError
from maskmill.evaluate.matching import MATCHERS, metrics
from maskmill.images.interpolate import best_scores
from maskmill.numerics import kmeans
from maskmill.numerics.neighbours import unit_rows
from maskmill.numerics.sampling import rng
from maskmill.store.codebook import Codebook, scores

NEIGHBOURS = 20
SECOND = 30  # frames of CamVid's videos
VOID = 255
ROWS = 20_000  # tokens that a clustering is fitted on


def cosines(queries: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Cosines [m, n] float64 of vectors [m, d] and [n, d]."""
    return unit_rows(queries.astype(np.float64)) @ unit_rows(points.astype(np.float64)).T


def neighbour_accuracy(vectors: np.ndarray, classes: np.ndarray, k: int = NEIGHBOURS) -> float:
    """Share of the images whose class is that of most of their k nearest other images, by cosine.

    Args:
        vectors: [n, d]. classes: [n] int, 0 or more. Of classes with equally many votes, the one with the larger sum
            of cosines wins, and of these the lower one.
    """
    near = cosines(vectors, vectors)
    np.fill_diagonal(near, -np.inf)
    found = np.argsort(-near, axis=1, kind="stable")[:, :k]
    votes = np.zeros((len(vectors), int(classes.max()) + 1))
    rows = np.arange(len(vectors))[:, None]
    np.add.at(votes, (rows, classes[found]), 1 + np.take_along_axis(near, found, 1) / (4 * k))  # ties only: < a vote
    return 100 * float(np.mean(votes.argmax(axis=1) == classes))


def majority(classes: np.ndarray) -> float:
    """What `neighbour_accuracy` gives to a guess: the share of the largest class."""
    return 100 * float(np.bincount(classes).max() / len(classes))


def animal(label: np.ndarray, animals: Sequence[int]) -> int:
    """Place of the animal with the most pixels in a label [H, W], the first of equals; -1 where there is none."""
    pixels = np.bincount(label.ravel(), minlength=256)[list(animals)]
    return int(pixels.argmax()) if pixels.any() else -1


def clustered(tokens: np.ndarray, clusters: int, seed: int, rows: int = ROWS) -> Codebook | None:
    """Spherical k-means of tokens [n, h, w, d], fitted on so many of them, drawn by the seed.

    The settings are those of the recipe `kmeans`. None where there are fewer distinct tokens than clusters, which is
    what a collapsed network gives.
    """
    flat = tokens.reshape(-1, tokens.shape[-1])
    if rows < len(flat):
        flat = flat[np.sort(rng(seed, "tokens").choice(len(flat), rows, replace=False))]
    try:
        return kmeans.fit(flat.astype(np.float32), kmeans.Settings(clusters=clusters), seed, "cpu")[0]
    except NumericsError as error:
        if "distinct" not in str(error):
            raise
        return None


def confusion(tokens: np.ndarray, labels: np.ndarray, book: Codebook | None, classes: int) -> np.ndarray:
    """Cells by cluster and class: int64 [K, classes].

    Args:
        tokens: [n, h, w, d]. labels: [n, H, W], VOID where a cell is not scored. The scores of the clusters are
            interpolated to H x W before the best one is taken, as the stage paint does. No codebook: one cluster.
    """
    _, h, w, d = tokens.shape
    counts = np.zeros((1 if book is None else len(book), classes), np.int64)
    for token, label in zip(tokens, labels, strict=True):
        found = np.zeros(label.shape, np.int64)
        if book is not None:
            maps = scores(token.reshape(h * w, d).astype(np.float32), book).reshape(h, w, -1)
            found = best_scores(np.moveaxis(maps, 2, 0), (label.shape[0], label.shape[1]))
        known = label != VOID
        np.add.at(counts, (found[known], label[known]), 1)
    return counts


def cluster_scores(
    tokens: np.ndarray, labels: np.ndarray, clusters: int, classes: int, seed: int
) -> dict[str, dict[str, float]]:
    """MIoU and accuracy of masks of k-means, by the name of the protocol (`maskmill.evaluate.matching`).

    `hungarian_counts` needs a cluster of its own for every class, so it is left out where there are more than twice as
    many clusters as classes; classes without a cell are left out.
    """
    counts = confusion(tokens, labels, clustered(tokens, clusters, seed), classes)
    counts = counts[:, counts.any(axis=0)]
    rules = ("hungarian_counts", "many_to_one") if clusters <= 2 * classes else ("many_to_one",)
    found = {rule: metrics(counts, MATCHERS[rule](counts)) for rule in rules}
    return {rule: {"miou": 100 * m.miou, "accuracy": 100 * m.accuracy} for rule, m in found.items()}


def scene_retrieval(
    vectors: np.ndarray, drives: Sequence[str], frames: Sequence[int], apart: int = SECOND, within: int | None = None
) -> tuple[float, float]:
    """How often the nearest frame at another time shows the same drive, or the same place, and that of a guess.

    Args:
        vectors: [n, d]. drives: the video of each frame. frames: its number in it. apart: frames of the same video are
            candidates from so many frames away on. within: a hit is at most so many frames away, which is the same
            place; None: anywhere in the same video.

    Returns:
        Recall at 1 over the frames that have a right candidate, and the mean share of right ones among candidates.
    """
    same = np.equal.outer(np.asarray(drives), np.asarray(drives))
    away = np.abs(np.subtract.outer(np.asarray(frames), np.asarray(frames)))
    candidate = ~same | (away >= apart)
    right = same & candidate if within is None else same & candidate & (away <= within)
    asked = np.flatnonzero(right.any(axis=1))
    near = np.where(candidate, cosines(vectors, vectors), -np.inf)
    hits = right[asked, near[asked].argmax(axis=1)]
    chance = right[asked].sum(axis=1) / candidate[asked].sum(axis=1)
    return 100 * float(hits.mean()), 100 * float(chance.mean())


def view_retrieval(views: np.ndarray, photos: np.ndarray) -> float:
    """Recall at 1: how often the photo nearest to view i [n, d], by cosine, is photo i of all [n, d]."""
    return 100 * float(np.mean(cosines(views, photos).argmax(axis=1) == np.arange(len(views))))


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation over the seeds."""
    return float(np.mean(values)), float(np.std(values))

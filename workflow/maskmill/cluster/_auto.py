"""clusters: auto: the largest number of clusters that two halves of the images agree about.

The images are divided into halves, each half is clustered, and all vectors are labelled twice, by the centroids of
either half. Each cluster of one labelling has a Jaccard index (intersection over union) with the most alike cluster of
the other one; the mean over the clusters of both, whatever their size, is the stability S(k), 1 where the halves agree:
Hennig, Cluster-wise assessment of cluster stability (2007), who calls clusters of 0.75 or more stable, between halves
as in Tibshirani and Walther, Cluster validation by prediction strength (2005). Few clusters agree even where there is
no structure, and in one or two dimensions many do. The same is therefore measured of a reference without clusters,
S0(k), of vectors from a normal distribution of the same mean and covariance (a reference is Dudoit and Fridlyand's way,
2002). The gain is the share of the reference's disagreement that is gone, (S - S0) / (1 - S0). A number is repeatable
where S >= STABLE and the gain >= BEYOND, and the largest repeatable number whose gain is within CLOSE of the best of
them is taken; where there is none, the smallest number of the range.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from maskmill.errors import NumericsError
from maskmill.numerics.sampling import rng
from maskmill.store.codebook import Codebook, assign

SAMPLE = 4000  # vectors that are looked at
SPLITS = 3  # divisions into halves, over which the stability is averaged
STABLE = 0.75  # least stability, as Hennig advises
BEYOND = 0.5  # least gain: at most half as much disagreement as without structure
CLOSE = 0.05  # gains that differ by less are equal
RESTARTS = 2  # seedings of a k-means of a half
MEMBERS = 4  # distinct vectors of a half for each cluster, at least
IMAGES = 8  # fewer images than this cannot be divided: their vectors are
EVERY = 8  # all numbers up to this one are tried, then steps of STEP
STEP = 1.2

Fits = Callable[[np.ndarray, Sequence[int], int], Iterable[Codebook]]


@dataclass(frozen=True)
class Choice:
    """What was chosen and why.

    Attributes:
        chosen: the number of clusters. supported: it is repeatable; otherwise it is the smallest of the range, for
            want of any that is. range: as asked for. numbers: those that were tried. stability, reference: S and S0 of
            each.
        end: the largest number that was tried is repeatable, so that a larger one may be, too. vectors: looked at.
    """

    chosen: int
    supported: bool
    range: tuple[int, int]
    numbers: tuple[int, ...]
    stability: tuple[float, ...]
    reference: tuple[float, ...]
    end: bool
    vectors: int

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        curve = zip(self.numbers, self.stability, self.reference, strict=True)
        return {
            "rule": "stability of halves",
            "chosen": self.chosen,
            "supported": self.supported,
            "range": list(self.range),
            "end": self.end,
            "vectors": self.vectors,
            "stable": STABLE,
            "curve": [{"clusters": k, "stability": s, "reference": r} for k, s, r in curve],
        }


def grid(first: int, last: int) -> list[int]:
    """The numbers that are tried between two, both included: all up to EVERY, then growing by STEP."""
    numbers, k = [], first
    while k < last:
        numbers.append(k)
        k = max(k + 1, round(k * STEP)) if k >= EVERY else k + 1
    return [*numbers, last]


def choose(x: np.ndarray, images: np.ndarray, bounds: tuple[int, int], fits: Fits, spherical: bool) -> Choice:
    """The number of clusters of a sample of vectors; it depends on the arguments only, and on no seed.

    Args:
        x: [n, d] float32. images: [n] int, the image of each, ascending. bounds: the range of numbers.
        fits: codebooks of as many clusters as each of some numbers says, of some vectors, by a seed.
        spherical: the clustering looks at directions only.

    Raises:
        NumericsError: NaN or infinite values, or too few distinct vectors to divide.
    """
    from maskmill.numerics.blocks import one_thread

    with one_thread():
        return _choose(x, images, bounds, fits, spherical)


def _choose(x: np.ndarray, images: np.ndarray, bounds: tuple[int, int], fits: Fits, spherical: bool) -> Choice:
    if not np.isfinite(x).all():
        raise NumericsError("cluster: the vectors hold NaN or infinite values; check the features or the reduction")
    if spherical:
        length = np.linalg.norm(x, axis=1, keepdims=True)
        x, images = (x / np.maximum(length, 1e-30))[length[:, 0] > 0], images[length[:, 0] > 0]
    halves = [half(images, split) for split in range(SPLITS)]
    most = min((_distinct(x[side]) // MEMBERS for one in halves for side in (one, ~one)), default=0)
    if most < bounds[0]:
        raise NumericsError(
            f"cluster.clusters: auto: halves of {len(x)} vectors are too few for {bounds[0]} clusters each; set "
            "cluster.clusters to a number, or use more images"
        )
    numbers = grid(bounds[0], min(bounds[1], most))
    draw = like(x)
    stability, reference = np.zeros(len(numbers)), np.zeros(len(numbers))
    for split, one in enumerate(halves):
        stability += agreement(x, one, numbers, fits, split) / SPLITS
        reference += agreement(draw(split), one, numbers, fits, split) / SPLITS
    best = largest(stability, reference)
    curve = tuple(map(float, stability)), tuple(map(float, reference))
    end = best is not None and best == len(numbers) - 1
    return Choice(numbers[best or 0], best is not None, bounds, tuple(numbers), *curve, end, len(x))


def largest(stability: np.ndarray, reference: np.ndarray) -> int | None:
    """Which number is taken, of S and S0 of each [numbers], numbers ascending; None where none is repeatable."""
    gain = (stability - reference) / np.maximum(1 - reference, 1e-9)
    sound = (stability >= STABLE) & (gain >= BEYOND)
    if not sound.any():
        return None
    return int(np.flatnonzero(sound & (gain >= gain[sound].max() - CLOSE))[-1])


def half(images: np.ndarray, split: int) -> np.ndarray:
    """Which vectors are in the first half [n] bool: those of a random half of the images.

    Vectors of one image are alike and stay together, unless there are fewer than IMAGES images.
    """
    known, place = np.unique(images, return_inverse=True)
    count = len(known) if len(known) >= IMAGES else len(images)
    first = rng(0, "cluster", "auto", "half", str(split)).permutation(count) < (count + 1) // 2
    return np.asarray(first[place.reshape(-1)] if len(known) >= IMAGES else first)


def like(x: np.ndarray) -> Callable[[int], np.ndarray]:
    """A function that draws vectors [n, d] from the normal distribution with the mean and covariance of x [n, d]."""
    mean = x.mean(axis=0, dtype=np.float64)
    centred = x.astype(np.float64) - mean
    values, vectors = np.linalg.eigh(centred.T @ centred / max(len(x), 1))
    root = np.sqrt(np.maximum(values, 0))[:, None] * vectors.T

    def draw(split: int) -> np.ndarray:
        noise = rng(0, "cluster", "auto", "reference", str(split)).standard_normal((len(x), len(root)))
        return np.asarray(noise @ root + mean, np.float32)

    return draw


def agreement(x: np.ndarray, one: np.ndarray, numbers: Sequence[int], fits: Fits, split: int) -> np.ndarray:
    """Stability of the labellings of x [n, d] by the halves x[one] and x[~one], for each number [numbers]."""
    pairs = zip(fits(x[one], numbers, 2 * split), fits(x[~one], numbers, 2 * split + 1), strict=True)
    return np.array([alike(assign(x, a)[0], assign(x, b)[0], len(a), len(b)) for a, b in pairs])


def alike(a: np.ndarray, b: np.ndarray, first: int, second: int) -> float:
    """Mean Jaccard index of each cluster of two labellings [n], of `first` and `second` clusters, with its best match.

    The mean of both directions; an empty cluster counts as 0.
    """
    table = np.zeros((first, second))
    np.add.at(table, (a, b), 1)
    union = table.sum(axis=1, keepdims=True) + table.sum(axis=0) - table
    index = table / np.maximum(union, 1)
    return float((index.max(axis=1).mean() + index.max(axis=0).mean()) / 2)


def _distinct(x: np.ndarray) -> int:
    return len(np.unique(x, axis=0))


def by_kmeans(spherical: bool) -> Fits:
    """k-means of every number: for methods whose clusters are those of k-means, or follow it."""
    from maskmill.numerics import kmeans

    def fits(x: np.ndarray, numbers: Sequence[int], seed: int) -> Iterable[Codebook]:
        for k in numbers:
            own = kmeans.Settings(clusters=k, spherical=spherical, restarts=RESTARTS, tolerance=1e-3)
            yield kmeans.fit(x, own, seed, "cpu")[0]

    return fits

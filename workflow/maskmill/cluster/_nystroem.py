"""Nystroem's approximation of the affinity of all points by that with a few landmarks, and its normalised cut.

Fowlkes, Belongie, Chung and Malik, Spectral grouping using the Nystroem method (PAMI 2004). With A [m, m] the
affinity of the landmarks, b(x) [m] that of a point with them, and A = E L E', the features f(x) = L^-1/2 E' b(x)
have K(x, y) = f(x)' f(y), which is the paper's b(x)' A^-1 b(y). Everything else follows from them without any matrix of
points by points: the row sums of K are d(x) = f(x)' sum_y f(y), those of all points, and the eigenvectors of
D^-1/2 K D^-1/2 are D^-1/2 F U M^-1/2, with U M U' the eigenvectors of F' D^-1 F; they are orthonormal (the paper's "one
shot"). Where all points are landmarks nothing is approximated.

The affinity is Gaussian, exp(-|x - y|^2 / (2 s^2)): it is positive definite, so A has its root.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from maskmill.errors import NumericsError
from maskmill.numerics.sampling import rng

if TYPE_CHECKING:
    import torch

    from maskmill.numerics.points import PreparedPoints

BLOCK = 8192  # points whose affinities are held at once
CANDIDATES = 4  # points a landmark from which the farthest ones are taken, as ncut-pytorch does,
MOST_CANDIDATES = 8192  # and how many of them at most, unless there are more landmarks
PAIRED = 1000  # landmarks whose distances say the bandwidth
RANK = 256  # eigenvectors of A that are used; all of them where all points are landmarks
SMALL = 1e-6  # eigenvalues of A below this share of the largest are rounding
HELD_BYTES = 1 << 30  # features that are kept from one pass to the next; more are computed again
TINY = 1e-12  # what counts as 0
ROUNDING = 1e-5  # share of sigma^2 by which rounding may move a squared distance; float64 where float32 moves it more
ALONE = 0.01  # share of the points, at most, that may be too far from all landmarks to have a row sum
ABOVE = 1e-3  # the largest eigenvalue is 1; above 1 by more than this it is rounding


def farthest(x: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Rows [count] of x [n, d] such that each is the farthest from those before it; the first is drawn."""
    import torch

    points = torch.from_numpy(precise(x, bandwidth(x, None)))
    between = _apart(points, points)  # [n, n]: at most some hundred MB
    rows = np.empty(min(count, len(x)), np.int64)
    rows[0] = rng(seed, "cluster", "ncut", "first").integers(len(x))
    apart = torch.full((len(x),), torch.inf, dtype=points.dtype)
    for place in range(1, len(rows)):
        torch.minimum(apart, between[rows[place - 1]], out=apart)
        apart[rows[place - 1]] = -torch.inf  # none is taken twice
        rows[place] = int(apart.argmax())
    return rows


def bandwidth(landmarks: np.ndarray, degree: float | None) -> float:
    """The s of the affinity: the median distance of two landmarks [m, d], or such that the mean affinity is `degree`.

    Both are the rules of ncut-pytorch (find_sigma). No label and no unit is in them.
    """
    from scipy.spatial.distance import pdist

    some = landmarks[np.unique(np.linspace(0, len(landmarks) - 1, PAIRED).round().astype(int))]
    apart = pdist(some.astype(np.float64))
    median = float(np.median(apart))
    median = median if median > 0 else max(float(apart.mean()), TINY)
    if degree is None:
        return median
    m = len(some)
    low, high = np.log(max(float(apart[apart > 0].min()), TINY)) - 3, np.log(float(apart.max())) + 3
    for _ in range(60):
        middle = (low + high) / 2
        mean = (m + 2 * np.exp(-(apart**2) / (2 * np.exp(2 * middle))).sum()) / m**2
        low, high = (low, middle) if mean > degree else (middle, high)
    return float(np.exp((low + high) / 2))


def precise(x: np.ndarray, sigma: float) -> np.ndarray:
    """Points [m, d] float32, as float64 where that is needed to measure distances of about `sigma`.

    Squared distances are |x|^2 - 2 x y + |y|^2. Rounding moves them by a share of |x|^2, however close the points are.
    """
    longest = float(np.einsum("md,md->m", x, x).max())
    return x.astype(np.float64) if np.finfo(np.float32).eps * longest > ROUNDING * sigma**2 else x


@dataclass(frozen=True)
class Affinity:
    """Gaussian affinities with landmarks [m, d], of width `sigma`, and the features that they make."""

    landmarks: torch.Tensor
    sigma: float
    root: torch.Tensor  # E L^-1/2 [m, r]

    @classmethod
    def of(cls, landmarks: np.ndarray, sigma: float, rank: int | None) -> Affinity:
        """Args: landmarks [m, d] floats, all different; their dtype is that of the features. rank: None for all."""
        import torch

        points = torch.from_numpy(landmarks)
        values, vectors = torch.linalg.eigh(_gaussian(_apart(points.double(), points.double()), sigma))
        kept = values > SMALL * values[-1]
        kept[: max(0, len(kept) - (rank or len(kept)))] = False
        return cls(points, sigma, (vectors[:, kept] / values[kept].sqrt()).to(points.dtype))

    def features(self, apart: torch.Tensor) -> torch.Tensor:
        """Features [b, r] of points whose squared distances to the landmarks [b, m] are given and overwritten."""
        return _gaussian(apart, self.sigma) @ self.root

    def apart(self, x: torch.Tensor) -> torch.Tensor:
        """Squared distances [b, m] of points [b, d] to the landmarks."""
        return _apart(x.to(self.landmarks.dtype), self.landmarks)


def _apart(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    import torch

    square = x.square().sum(1, keepdim=True) + y.square().sum(1)
    return torch.addmm(square, x, y.T, alpha=-2).clamp_min_(0)


def _gaussian(apart: torch.Tensor, sigma: float) -> torch.Tensor:
    return apart.mul_(-0.5 / sigma**2).exp_()


@dataclass(frozen=True)
class Part:
    """What is known of a block of points: features [b, r], and the nearest landmark [b] int64."""

    features: torch.Tensor
    nearest: torch.Tensor


def blocks(points: PreparedPoints) -> Iterator[np.ndarray]:
    """All points in blocks of BLOCK rows, which do not depend on those in which they come.

    Vectors of zeros, which have no direction, are left out where directions are what counts.
    """
    from maskmill.numerics.blocks import rows_in_blocks

    def directed(block: np.ndarray) -> np.ndarray:
        if not points.frame.spherical:
            return block
        kept = np.einsum("nd,nd->n", block, block) > 0.5
        return block if kept.all() else block[kept]

    return rows_in_blocks(map(directed, points.blocks()), BLOCK)


def passes(points: PreparedPoints, affinity: Affinity) -> Callable[[], Iterator[Part]]:
    """A function that goes over all `blocks` of points; what fits into HELD_BYTES is computed once."""
    import torch

    def compute() -> Iterator[Part]:
        for block in blocks(points):
            apart = affinity.apart(torch.from_numpy(np.ascontiguousarray(block)))
            nearest = apart.argmin(dim=1)
            yield Part(affinity.features(apart), nearest)

    if points.count * affinity.root.shape[1] * affinity.root.element_size() > HELD_BYTES:
        return compute
    held: list[Part] = []

    def again() -> Iterator[Part]:
        if held:
            yield from held
            return
        for part in compute():
            held.append(part)
            yield part

    return again


@dataclass(frozen=True)
class Embedding:
    """The leading eigenvectors of D^-1/2 K D^-1/2, for any point.

    Attributes:
        values: [q] float64 eigenvalues, largest first. total: sum of the features of all points [r] float64.
        turn: U M^-1/2 [r, q] float64; the coordinates of a point are f(x)' turn / sqrt(d(x)).
    """

    values: np.ndarray
    total: torch.Tensor
    turn: torch.Tensor

    def coordinates(self, features: torch.Tensor) -> torch.Tensor:
        """Coordinates [b, q] of points with features [b, r]: their rows of the orthonormal eigenvectors."""
        degree = features @ self.total.to(features.dtype)
        return (features @ self.turn.to(features.dtype)).div_(degree.clamp_min(TINY).sqrt()[:, None])


def embed(parts: Callable[[], Iterator[Part]], count: int) -> Embedding:
    """The `count` leading eigenvectors (fewer where there are no more) of the points; two passes.

    A row sum that is not above TINY is that of an outlier: a point so far from all landmarks that its links are
    rounding. Few such points add nothing to the eigenvectors, and have the coordinates that the rest of their links
    gives.

    Raises:
        NumericsError: more than a share of ALONE of the points are like that, or the affinities are rounding.
    """
    import torch

    total = sum((part.features.sum(0, dtype=torch.float64) for part in parts()), torch.zeros((), dtype=torch.float64))
    gram = torch.zeros((), dtype=torch.float64)
    alone = every = 0
    for part in parts():
        degree = part.features @ total.to(part.features.dtype)
        alone, every = alone + int((degree <= TINY).sum()), every + len(degree)
        degree = torch.where(degree > TINY, degree, torch.inf)
        gram = gram + (part.features.T @ (part.features / degree[:, None])).double()
    if alone > ALONE * every:
        raise _too_narrow(f"the row sums of {alone} of {every} vectors are not above 0")
    values, vectors = torch.linalg.eigh((gram + gram.T) / 2)
    if not values[-1] <= 1 + ABOVE:
        raise _too_narrow(f"the largest eigenvalue is {float(values[-1]):.4g}, and not 1")
    values, vectors = values.flip(0)[:count], vectors.flip(1)[:, :count]
    kept = values > TINY
    values, vectors = values[kept], vectors[:, kept]
    signs = torch.sign(total @ vectors)  # a sign of its own for each vector, as eigh gives any
    vectors = vectors * torch.where(signs == 0, torch.ones_like(signs), signs)
    return Embedding(values.numpy(), total, vectors / values.sqrt())


def _too_narrow(what: str) -> NumericsError:
    return NumericsError(
        f"cluster.degree: the affinities are too narrow for these vectors and landmarks ({what}); set cluster.degree "
        "closer to 1 (a larger bandwidth), or reduce the vectors so that fewer of them nearly coincide (section reduce)"
    )

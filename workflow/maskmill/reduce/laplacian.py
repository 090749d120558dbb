"""Laplacian eigenmaps of the symmetrised neighbour graph (Belkin and Niyogi, 2003), as COMUS clusters them.

COMUS (Zadaianchuk et al., ICLR 2023) gives its object vectors to spectral clustering: the 30 nearest neighbours of each
vector, itself counted, every edge of weight 1, or 1/2 where only one of the two names the other; then the first
`dimensions` eigenvectors of the normalised Laplacian, divided by the root of the degree. The first of them, the
constant, is kept as it is there: k-means does not see it, cosines do.

Vectors that were not fitted follow the eigenvector equation mu y_i = sum_j w_ij y_j / d_i (Nystroem's extension): w of
a new x is 1/2 for each of its nearest fitted vectors, and 1/2 for each fitted vector that is at least as close to x as
to its own farthest neighbour. A fitted vector keeps its place.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from maskmill.errors import NumericsError
from maskmill.numerics.neighbours import EXACT_POINTS, NeighbourIndex, unit_rows
from maskmill.recipe.base import Model
from maskmill.reduce import Traits

if TYPE_CHECKING:
    import scipy.sparse as sp

TRAITS = Traits(max_fit_points=20_000, bounded_memory=True)
USABLE = 0.01  # eigenvalues of the random walk below this can not be divided by


class Params(Model):
    """Parameters of Laplacian eigenmaps."""

    dimensions: int = Field(20, ge=1, description="number of eigenvectors kept")
    neighbours: int = Field(30, ge=2, description="nearest neighbours a vector, itself counted")
    metric: Literal["euclidean", "cosine"] = Field("euclidean", description="distance between vectors")
    keep_first: bool = Field(True, description="keep the constant eigenvector (false: drop it, take one more)")
    normalise: bool = Field(False, description="scale the reduced vectors to unit length")
    memory_gb: float = Field(6.0, gt=0, description="refuse a fit that needs more memory")


def dimensions(params: Params, depth: int) -> int:
    """Length of a reduced vector."""
    return params.dimensions


def memory_gb(params: Params) -> float:
    """GiB that a fit may take."""
    return params.memory_gb


def fit(
    blocks: Callable[[], Iterator[np.ndarray]], params: Params, seed: int = 0, exact: int = EXACT_POINTS
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Fit on blocks [m, d], all of which are held.

    Args:
        blocks: a function that returns an iterator over blocks of floats.
        seed: of the solver's start, and of the neighbours of more than `exact` vectors (then approximate).

    Returns:
        the model: points [n, d] float32 (the distinct vectors), embedding [n, dimensions] float32 (weighted by degree
        its columns are orthogonal and of mean square 1; the largest entry of each is positive), eigenvalues
        [dimensions] float64 (mu = 1 - that of the Laplacian, largest first), radius [n] float32 (distance to the
        farthest neighbour), neighbours (k of the graph: twice `neighbours` or more where that falls into more parts
        than there are dimensions); and diagnostics: distinct, parts (of the graph), last (the smallest mu).

    Raises:
        NumericsError: NaN, too few distinct vectors, more than the memory holds, eigenvalues too small.
    """
    from maskmill.reduce._graph import eigenmaps, sample

    x = sample(blocks, params.neighbours, lambda d: row_bytes(d, params), params.memory_gb)
    skip = 0 if params.keep_first else 1
    k, graph, radius = _connected(
        NeighbourIndex.of(x, params.metric, "reduce"), params.neighbours, params.dimensions + skip, seed, exact
    )
    embedding, mu = eigenmaps(graph, params.dimensions + skip, seed)
    if mu[-1] < USABLE:
        smooth = int((mu >= USABLE).sum()) - skip
        raise NumericsError(
            f"reduce.dimensions: only {smooth} eigenvectors of the neighbour graph of {len(x)} vectors are smooth "
            f"enough; lower reduce.dimensions from {params.dimensions}, or reduce.neighbours"
        )
    model = {
        "points": x,
        "embedding": np.ascontiguousarray(embedding[:, skip:], dtype=np.float32),
        "eigenvalues": mu[skip:],
        "radius": radius,
        "neighbours": np.array(k),
    }
    diagnostics = {"distinct": float(len(x)), "parts": float((mu > 1 - 1e-12).sum()), "last": float(mu[-1])}
    return model, diagnostics


def _connected(
    points: NeighbourIndex, k: int, dimensions: int, seed: int, exact: int
) -> tuple[int, sp.csr_array, np.ndarray]:
    """The graph of at most `dimensions` parts: neighbours k (doubled until the parts are few enough), W, radius [n]."""
    from maskmill.reduce._graph import components

    while True:
        found, distances = points.graph(k, seed, exact)
        graph = symmetrised(found)
        parts = components(graph)[0]
        if parts <= dimensions or k >= len(points) - 1:
            return k, graph, distances[:, -1].astype(np.float32)
        more = min(2 * k, len(points) - 1)
        print(
            f"reduce: with {k} neighbours the graph falls into {parts} parts, more than {dimensions} eigenvectors can "
            f"tell apart; trying {more} neighbours",
            file=sys.stderr,
        )
        k = more


def row_bytes(d: int, params: Params) -> float:
    """Memory of the fit a vector of length d: measured, see docs/reduce.md."""
    return 20.0 * d + 120.0 * params.neighbours + 8.0 * max(4 * params.dimensions, 60) + 24.0 * params.dimensions


def symmetrised(found: np.ndarray) -> sp.csr_array:
    """W = (C + C^T) / 2 of the 0/1 graph C of neighbours [n, k], itself the first, without the diagonal."""
    import scipy.sparse as sp

    n, k = found.shape
    rows = np.repeat(np.arange(n), k - 1)
    graph = sp.csr_array((np.full(n * (k - 1), 0.5), (rows, found[:, 1:].ravel())), shape=(n, n))
    return sp.csr_array(graph + graph.T)


@dataclass(frozen=True)
class Fitted:
    """A model made ready.

    Attributes:
        points: n fitted vectors. places: their embedding [n, dimensions] float64; extended: the same over mu.
        radius: [n] distance to the farthest neighbour. neighbours: k.
    """

    points: NeighbourIndex
    places: np.ndarray
    extended: np.ndarray
    radius: np.ndarray
    neighbours: int


def prepare(model: Mapping[str, np.ndarray], params: Params) -> Fitted:
    """What `transform` reads, from the tensors of a model."""
    places = model["embedding"].astype(np.float64)
    points = NeighbourIndex.of(model["points"], params.metric, "reduce")
    return Fitted(points, places, places / model["eigenvalues"], model["radius"], int(model["neighbours"]))


def transform(x: np.ndarray, fitted: Fitted, params: Params) -> np.ndarray:
    """Place x [m, d] in the eigenmaps: [m, dimensions] float32; each row depends on its own vector only.

    Raises:
        NumericsError: vectors of another length, or NaN.
    """
    ready = fitted.points.prepare(x)
    found, distances = fitted.points.nearest(ready, fitted.neighbours)
    y = extend(found, fitted.points.reached(ready, fitted.radius), fitted.extended)
    same = distances[:, 0] == 0
    y[same] = fitted.places[found[same, 0]]
    if params.normalise:
        y = unit_rows(y)
    return y.astype(np.float32)


def extend(found: np.ndarray, reached: sp.csr_array, places: np.ndarray) -> np.ndarray:
    """Mean of places [n, k] over mu, each of the neighbours [m, b] and of the points that reach [m, n] counted half."""
    forward = places[found].sum(axis=1)
    count = found.shape[1] + np.diff(reached.indptr)
    return (forward + reached @ places) / np.maximum(count, 1)[:, None]


def depth(model: Mapping[str, np.ndarray]) -> int:
    """Length of a transformed vector."""
    return int(model["embedding"].shape[1])

"""UMAP (McInnes, Healy and Melville, 2018) of a sample, and of every other vector against that sample.

The graph is built from our own neighbours, its layout starts from Laplacian eigenmaps (a graph that falls into parts:
from random places) and is optimised by umap-learn on one thread. A vector that was not fitted starts at the mean of its
fitted neighbours, weighted as umap-learn weighs them, and is moved by umap-learn's optimiser for some epochs among the
fitted ones, which stay. Here every vector is its own batch, so that its place does not depend on its company; a copy of
a fitted vector takes that one's place.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator

from maskmill.errors import ConfigError, NumericsError
from maskmill.numerics.neighbours import EXACT_POINTS, NeighbourIndex, unit_rows
from maskmill.recipe.base import Model
from maskmill.reduce import Traits

TRAITS = Traits(max_fit_points=100_000, bounded_memory=True)


class Params(Model):
    """Parameters of UMAP."""

    dimensions: int = Field(8, ge=1, description="number of dimensions")
    neighbours: int = Field(30, ge=2, description="nearest neighbours a vector, itself counted")
    min_dist: float = Field(0.0, ge=0, description="distance within which vectors are not pulled closer")
    spread: float = Field(1.0, gt=0, description="scale of the embedding")
    metric: Literal["euclidean", "cosine"] = Field("cosine", description="distance between vectors")
    epochs: int | None = Field(None, ge=3, description="epochs of the layout; default 500 to 10 000 vectors, else 200")
    negatives: int = Field(5, ge=1, le=50, description="points pushed away for each one that is pulled closer")
    normalise: bool = Field(False, description="scale the reduced vectors to unit length")
    deterministic: bool = Field(True, description="one thread, the same bytes every time; false: all threads, faster")
    gpu: bool = Field(False, description="lay out with cuML on a CUDA device; not deterministic")
    memory_gb: float = Field(6.0, gt=0, description="refuse a fit that needs more memory")

    @model_validator(mode="after")
    def _close(self) -> Params:
        if self.min_dist > self.spread:
            raise ValueError("min_dist is larger than spread; lower it")
        return self


def dimensions(params: Params, depth: int) -> int:
    """Length of a reduced vector."""
    return params.dimensions


def memory_gb(params: Params) -> float:
    """GiB that a fit may take."""
    return params.memory_gb


def row_bytes(d: int, params: Params) -> float:
    """Memory of the fit a vector of length d: measured, see docs/reduce.md."""
    return 20.0 * d + 120.0 * params.neighbours + 8.0 * max(4 * params.dimensions, 60) + 40.0 * params.dimensions


def fit(
    blocks: Callable[[], Iterator[np.ndarray]], params: Params, seed: int = 0, exact: int = EXACT_POINTS
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Fit on blocks [m, d], all of which are held.

    Args:
        blocks: a function that returns an iterator over blocks of floats.
        seed: of the start and the optimiser, and of the neighbours of more than `exact` vectors (then approximate).

    Returns:
        the model: points [n, d] float32 (the distinct vectors), embedding [n, dimensions] float32, curve [2] float64
        (a and b of 1 / (1 + a r^2b)), seed; and diagnostics: distinct, parts (of the graph).

    Raises:
        NumericsError: NaN, too few distinct vectors, more than the memory holds. ConfigError: gpu without cuML.
    """
    from umap.umap_ import find_ab_params

    from maskmill.reduce._graph import sample

    x = sample(blocks, params.neighbours, lambda d: row_bytes(d, params), params.memory_gb)
    if params.dimensions >= len(x):
        raise NumericsError(f"reduce.dimensions: {params.dimensions} needs more than {len(x)} distinct vectors")
    curve = np.array(find_ab_params(params.spread, params.min_dist), dtype=np.float64)
    if params.gpu:
        embedding, parts = _on_gpu(x, params, seed), 0
    else:
        graph = _graph(NeighbourIndex.of(x, params.metric, "reduce"), params, seed, exact)
        embedding, parts = _layout(graph, curve, params, seed)
    model = {"points": x, "embedding": embedding, "curve": curve, "seed": np.array(seed)}
    return model, {"distinct": float(len(x)), "parts": float(parts)}


def _graph(points: NeighbourIndex, params: Params, seed: int, exact: int) -> Any:
    """The symmetric graph of memberships [n, n], float32 CSR."""
    import scipy.sparse as sp
    from umap.umap_ import fuzzy_simplicial_set

    found, distances = points.graph(params.neighbours, seed, exact)
    state = np.random.RandomState(seed % 2**32)
    graph, _, _ = fuzzy_simplicial_set(
        points.ready, params.neighbours, state, params.metric, knn_indices=found.astype(np.int32), knn_dists=distances
    )
    return sp.csr_array(graph)


def _layout(graph: Any, curve: np.ndarray, params: Params, seed: int) -> tuple[np.ndarray, int]:
    """Embedding [n, dimensions] float32 of the graph, and the number of its parts."""
    from umap.umap_ import simplicial_set_embedding

    from maskmill.numerics.sampling import rng
    from maskmill.reduce._graph import components, eigenmaps, numba_threads

    numba_threads()
    n, k = graph.shape[0], params.dimensions
    draw = rng(seed, "umap")
    parts = components(graph)[0]
    if parts == 1:
        start = eigenmaps(graph.astype(np.float64), k + 1, seed)[0][:, 1:]
        start = 10 * start / np.abs(start).max() + draw.normal(scale=1e-4, size=(n, k))
    else:
        print(f"reduce: the neighbour graph falls into {parts} parts; UMAP starts from random places", file=sys.stderr)
        start = draw.uniform(-10, 10, (n, k))
    embedding, _ = simplicial_set_embedding(
        None, graph, k, 1.0, curve[0], curve[1], 1.0, params.negatives, params.epochs, start.astype(np.float32),
        np.random.RandomState(seed % 2**32), params.metric, {}, False, {}, False, parallel=not params.deterministic,
    )  # fmt: skip
    return np.ascontiguousarray(embedding, dtype=np.float32), parts


def _on_gpu(x: np.ndarray, params: Params, seed: int) -> np.ndarray:
    """Embedding [n, dimensions] by cuML, with the neighbours by NN-descent on the device."""
    try:
        from cuml.manifold import UMAP
    except ImportError:
        raise ConfigError(
            "reduce.gpu: true needs cuML (pip install cuml-cu12, on Linux with an NVIDIA device); or set it to false"
        ) from None
    model = UMAP(
        n_components=params.dimensions, n_neighbors=params.neighbours, min_dist=params.min_dist, spread=params.spread,
        metric=params.metric, n_epochs=params.epochs, negative_sample_rate=params.negatives, random_state=seed,
        build_algo="nn_descent", output_type="numpy",
    )  # fmt: skip
    return np.ascontiguousarray(model.fit_transform(x), dtype=np.float32)


@dataclass(frozen=True)
class Fitted:
    """A model made ready: the n fitted vectors, their embedding [n, k] float32, the curve's a and b, the seed."""

    points: NeighbourIndex
    embedding: np.ndarray
    curve: tuple[float, float]
    seed: int


def prepare(model: Mapping[str, np.ndarray], params: Params) -> Fitted:
    """What `transform` reads, from the tensors of a model."""
    a, b = (float(value) for value in model["curve"])
    return Fitted(
        NeighbourIndex.of(model["points"], params.metric, "reduce"), model["embedding"], (a, b), int(model["seed"])
    )


def transform(x: np.ndarray, fitted: Fitted, params: Params) -> np.ndarray:
    """Place x [m, d] in the embedding: [m, dimensions] float32; each row depends on its own vector only.

    Raises:
        NumericsError: vectors of another length, or NaN.
    """
    ready = fitted.points.prepare(x)
    found, distances = fitted.points.nearest(ready, params.neighbours)
    y = fitted.embedding[found[:, 0]].copy()
    new = np.flatnonzero(distances[:, 0] > 0)  # a copy of a fitted vector takes its place
    if len(new):
        y[new] = place(found[new], distances[new], fitted, params)
    if params.normalise:
        y = unit_rows(y)
    return y


def place(found: np.ndarray, distances: np.ndarray, fitted: Fitted, params: Params) -> np.ndarray:
    """Embedding [m, dimensions] float32 of new vectors from their fitted neighbours [m, k] and the distances to them.

    What umap-learn's `UMAP.transform` does with one vector at a time: same weights, start, epochs and draws.
    """
    from umap.layouts import optimize_layout_euclidean
    from umap.umap_ import compute_membership_strengths, smooth_knn_dist

    from maskmill.reduce._graph import numba_threads

    numba_threads()
    m, k = found.shape
    # Row by row: the least width of a row follows the mean distance of its batch.
    sigma = np.array([smooth_knn_dist(row[None], float(k), local_connectivity=0.0)[0][0] for row in distances])
    rows, columns, weights, _ = compute_membership_strengths(
        found.astype(np.int32), distances, sigma.astype(np.float32), np.zeros(m, np.float32), bipartite=True
    )
    weight = weights.reshape(m, k)
    share = weight / weight.sum(axis=1, keepdims=True)
    y = np.zeros((m, params.dimensions), np.float32)
    for column in range(k):
        y += share[:, column, None] * fitted.embedding[found[:, column]]
    epochs = 100 if params.epochs is None else max(1, params.epochs // 3)
    largest = weight.max(axis=1, keepdims=True)
    often = (weight >= largest / float(epochs)).ravel()
    steps = epochs / (epochs * (weight / largest)).ravel()[often].astype(np.float64)
    limit = np.iinfo(np.int32)
    draws = np.random.RandomState(fitted.seed % 2**32).randint(limit.min + 1, limit.max - 1, 3).astype(np.int64)
    return np.asarray(
        optimize_layout_euclidean(
            y, fitted.embedding.copy(), rows[often], columns[often], epochs, len(fitted.points), steps,
            *fitted.curve, draws, 1.0, 0.25, params.negatives, False,
        )
    )  # fmt: skip


def depth(model: Mapping[str, np.ndarray]) -> int:
    """Length of a transformed vector."""
    return int(model["embedding"].shape[1])

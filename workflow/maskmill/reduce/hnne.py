"""h-NNE (Sarfraz, Koulakis, Seibold, Stiefelhagen, CVPR 2022): a hierarchy of first neighbours, placed level by level.

FINCH joins every vector with its nearest neighbour, then the means of the groups, and so on; the means of each level
are anchors in a space of principal components, and what they hold is placed around them. This is the package's first
version: its second lays levels out for pictures, and places new vectors unlike the fitted ones.

A new vector goes to the nearest of the finest anchors and is placed around it. The groups of each level are clusterings
for free: `levels` gives a vector's group at every level.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import Field

from maskmill.errors import ConfigError, NumericsError
from maskmill.numerics.neighbours import NeighbourIndex, unit_rows
from maskmill.recipe.base import Model
from maskmill.reduce import Traits

TRAITS = Traits(max_fit_points=100_000, bounded_memory=True)
KEPT_POINTS = 10_000  # of which `kept` is counted
ALL_PAIRS = 5000  # points up to which the package compares all pairs, in memory


class Params(Model):
    """Parameters of h-NNE."""

    dimensions: int = Field(8, ge=4, description="number of dimensions (the package bends 2 and 3 for pictures)")
    metric: Literal["euclidean", "cosine"] = Field("cosine", description="distance between vectors")
    radius: float = Field(0.4, gt=0, lt=1, description="room around an anchor, as a share of the way to the next one")
    normalise: bool = Field(False, description="scale the reduced vectors to unit length")
    memory_gb: float = Field(6.0, gt=0, description="refuse a fit that needs more memory")


def dimensions(params: Params, depth: int) -> int:
    """Length of a reduced vector."""
    return params.dimensions


def memory_gb(params: Params) -> float:
    """GiB that a fit may take."""
    return params.memory_gb


def row_bytes(d: int, params: Params) -> float:
    """Memory of the fit a vector of length d: measured, see docs/reduce.md."""
    return 60.0 * d + 60.0 * params.dimensions + 2000.0


def fit(
    blocks: Callable[[], Iterator[np.ndarray]], params: Params, seed: int = 0
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Fit on blocks [m, d], all of which are held.

    Args:
        blocks: a function that returns an iterator over blocks of floats.
        seed: of the approximate neighbours of more than ALL_PAIRS vectors.

    Returns:
        the model: anchors [a, d] float32 (means of the finest groups), levels [a, L] int32 (the group of each anchor
        at each level, finest first), places, centres [a, k] and scale [a] float32 (a vector with components y near
        anchor i is placed at places[i] + (y - centres[i]) * scale[i]), components [k, d] and offset [k] float32;
        and diagnostics: distinct, levels, finest, coarsest (groups), kept (share of fitted vectors whose nearest
        anchor is that of their own group: the others are placed elsewhere by `transform`).

    Raises:
        NumericsError: NaN, too few distinct vectors, more than the memory holds. ConfigError: no package hnne.
    """
    from maskmill.numerics.blocks import one_thread
    from maskmill.reduce._graph import sample

    projector = _package()
    x = sample(blocks, params.dimensions, lambda d: row_bytes(d, params), params.memory_gb, "dimensions")
    if params.dimensions > x.shape[1]:
        raise NumericsError(
            f"reduce.dimensions: {params.dimensions} is more than the length {x.shape[1]} of the vectors"
        )
    with one_thread():
        found = _solve(projector, x, params, seed)
    return _tensors(found, x, params)


def _package() -> Any:
    try:
        from hnne import HNNE
    except ImportError:
        raise ConfigError(
            "reduce.method: hnne needs the package hnne, which is not installed; install it with: pip install hnne"
        ) from None
    return HNNE


def _solve(projector: Any, x: np.ndarray, params: Params, seed: int) -> Any:
    """The package's own fit; its draws come from NumPy's global generator, which is left as it was."""
    import numba

    state = np.random.get_state()
    threads = numba.get_num_threads()
    try:
        numba.set_num_threads(1)
        np.random.seed(seed % 2**32)
        model = projector(
            n_components=params.dimensions, metric=params.metric, radius=params.radius, ann_threshold=ALL_PAIRS,
            random_state=seed % 2**32, hnne_version="v1",
        )  # fmt: skip
        model.fit(x)
    except ValueError as error:
        if "too few points" not in str(error):
            raise
        raise NumericsError(
            f"reduce: the {len(x)} vectors join to fewer than three groups at once; take more images, or another method"
        ) from None
    finally:
        np.random.set_state(state)
        numba.set_num_threads(threads)
    return model


def _tensors(found: Any, x: np.ndarray, params: Params) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """The arrays that placing a vector takes, out of the package's objects, and the diagnostics."""
    hierarchy, layout = found.hierarchy_parameters, found.projection_parameters
    group = np.asarray(hierarchy.partitions[:, 0])
    first = np.unique(group, return_index=True)[1]
    components = layout.pca.components_ / layout.scaler.scale_  # [k, d]
    offset = (layout.scaler.mean_ / layout.scaler.scale_ + layout.pca.mean_) @ layout.pca.components_.T
    model = {
        "anchors": np.asarray(hierarchy.lowest_level_centroids, dtype=np.float32),
        "levels": np.ascontiguousarray(hierarchy.partitions[first], dtype=np.int32),
        "places": np.asarray(layout.projected_centroids[-2], dtype=np.float32),
        "centres": np.asarray(layout.points_means[-1], dtype=np.float64),
        "scale": (layout.projected_centroid_radii[-1] / layout.points_max_radii[-1]).astype(np.float64),
        "components": components.astype(np.float64),
        "offset": offset.astype(np.float64),
    }
    sizes = model["levels"].max(axis=0) + 1
    some = slice(None, None, -(-len(x) // KEPT_POINTS))
    diagnostics = {
        "distinct": float(len(x)),
        "levels": float(len(sizes)),
        "finest": float(sizes[0]),
        "coarsest": float(sizes[-1]),
        "kept": float((_anchor(x[some], prepare(model, params)) == group[some]).mean()),
    }
    return model, diagnostics


@dataclass(frozen=True)
class Fitted:
    """A model made ready: its tensors, and its anchors to compare with."""

    tensors: Mapping[str, np.ndarray]
    anchors: NeighbourIndex


def prepare(model: Mapping[str, np.ndarray], params: Params) -> Fitted:
    """What `transform` and `levels` read, from the tensors of a model."""
    return Fitted(model, NeighbourIndex.of(model["anchors"], params.metric, "reduce"))


def _anchor(x: np.ndarray, fitted: Fitted) -> np.ndarray:
    """The nearest anchor [m] of each vector [m, d]."""
    ready = fitted.anchors.prepare(x)
    return fitted.anchors.nearest(ready, 1)[0][:, 0]


def transform(x: np.ndarray, fitted: Fitted, params: Params) -> np.ndarray:
    """Place x [m, d] in the layout: [m, dimensions] float32; each row depends on its own vector only.

    Raises:
        NumericsError: vectors of another length, or NaN.
    """
    at, model = _anchor(x, fitted), fitted.tensors
    y = x.astype(np.float64) @ model["components"].T - model["offset"]  # [m, k]
    y = model["places"][at] + (y - model["centres"][at]) * model["scale"][at, None]
    if params.normalise:
        y = unit_rows(y)
    return y.astype(np.float32)


def levels(x: np.ndarray, fitted: Fitted) -> np.ndarray:
    """The group [m, L] int32 of each vector x [m, d] at every level of the hierarchy, finest first."""
    return fitted.tensors["levels"][_anchor(x, fitted)]


def depth(model: Mapping[str, np.ndarray]) -> int:
    """Length of a transformed vector."""
    return int(model["places"].shape[1])

"""Principal components, whitened in part or in full: linear, streaming, exact out of sample, deterministic.

Whitening by a power (eigenvalue ** -whiten, 0.5 is full whitening) and then unit length is the common preparation of
self-supervised tokens for spherical k-means.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping

import numpy as np
from pydantic import Field

from maskmill.errors import NumericsError
from maskmill.recipe.base import Model
from maskmill.reduce import Traits

TRAITS = Traits(max_fit_points=1_000_000)


class Params(Model):
    """Parameters of PCA."""

    dimensions: int = Field(64, ge=1, description="principal components kept, fewer where there is no more variance")
    whiten: float = Field(0.5, ge=0, le=0.5, description="components are scaled by eigenvalue ** -whiten")
    center: bool = Field(True, description="subtract the mean of the fitted vectors")
    standardise: bool = Field(False, description="first scale each dimension of the vectors to a variance of 1")
    normalise: bool = Field(True, description="scale the reduced vectors to unit length")


def dimensions(params: Params, depth: int) -> int:
    """Length of a reduced vector."""
    return params.dimensions


def memory_gb(params: Params) -> float:
    """No limit: the vectors are not held."""
    return 0.0


def row_bytes(d: int, params: Params) -> float:
    """Nothing: a few blocks of vectors are held, however many vectors there are."""
    return 0.0


def fit(
    blocks: Callable[[], Iterator[np.ndarray]], params: Params, seed: int = 0
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Fit on blocks [m, d]: exact covariance in float64 in one pass, then its eigenvectors.

    Args:
        blocks: a function that returns an iterator over blocks of floats, called once; a few blocks are held.
        seed: unused, PCA draws nothing.

    Returns:
        the model: mean [d] float32, components [k, d] float32 (orthonormal rows, the largest entry of each is
        positive; with `standardise` then divided by each dimension's standard deviation), scale [k] float32
        (eigenvalue ** -whiten), variance [k] float64 (eigenvalues, largest first); and diagnostics: points, rank,
        explained (share of the variance that is kept).

    Raises:
        NumericsError: NaN, no points, or all points equal. Where they vary in fewer than `dimensions` directions, all
            of these are kept and a warning says so.
    """
    from maskmill.numerics.blocks import one_thread

    with one_thread() as threads:
        count, mean, moment = _moments(blocks(), threads)
        if not params.center:
            moment, mean = moment + np.outer(mean, mean), np.zeros_like(mean)
        spread = np.sqrt(np.maximum(np.diag(moment), 0)) if params.standardise else np.ones(len(mean))
        spread = np.where(spread > spread.max() * np.finfo(np.float32).eps, spread, np.inf)  # constant: weight 0
        variance, vectors = _eigen(moment / np.outer(spread, spread))  # [d], [d, d] columns
    rank = int((variance > variance[0] * len(mean) * np.finfo(np.float32).eps ** 1.5).sum()) if variance[0] > 0 else 0
    if not rank:
        raise NumericsError(f"reduce: the {count} vectors of length {len(mean)} are all equal; check the features")
    k = min(params.dimensions, rank)
    if k < params.dimensions:  # a handful of images must not stop a recipe that is made for thousands
        print(
            f"reduce: warning: {count} vectors of length {len(mean)} vary in {rank} directions only; "
            f"keeping {rank} of the {params.dimensions} that reduce.dimensions asks for",
            file=sys.stderr,
        )
    components = vectors[:, :k].T
    signs = np.sign(components[np.arange(k), np.abs(components).argmax(axis=1)])
    model = {
        "mean": mean.astype(np.float32),
        "components": (components * signs[:, None] / spread).astype(np.float32),
        "scale": (variance[:k] ** -params.whiten).astype(np.float32),
        "variance": variance[:k],
    }
    kept = float(variance[:k].sum() / variance.sum())
    return model, {"points": float(count), "rank": float(rank), "explained": kept}


def _moments(blocks: Iterator[np.ndarray], threads: int) -> tuple[int, np.ndarray, np.ndarray]:
    """Number of rows, mean [d] and covariance [d, d], float64.

    Rows are shifted by the mean of the first block, so that a large common offset does not cancel the variance away.
    """
    import torch

    from maskmill.numerics.blocks import ordered

    first = next(blocks, None)
    if first is None or not len(first):
        raise NumericsError("reduce: there are no vectors to fit on; check that the cut finds segments")
    shift = np.nan_to_num(first.mean(axis=0, dtype=np.float64), posinf=0, neginf=0)  # NaN is reported below

    def one(block: np.ndarray) -> tuple[int, np.ndarray, np.ndarray]:
        x = torch.from_numpy(block.astype(np.float64) - shift)  # [m, d]
        return len(block), x.sum(0).numpy(), (x.T @ x).numpy()

    def chain() -> Iterator[np.ndarray]:
        yield first
        yield from blocks

    count, total, moment = 0, np.zeros_like(shift), np.zeros((len(shift), len(shift)))
    for rows, s, m in ordered(one, chain(), threads):
        count, total, moment = count + rows, total + s, moment + m
    if not np.isfinite(moment).all():
        raise NumericsError("reduce: the vectors hold NaN or infinite values; check the features that made them")
    delta = total / count
    return count, shift + delta, moment / count - np.outer(delta, delta)


def _eigen(moment: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues [d], largest first and not negative, and eigenvectors in columns [d, d]."""
    import torch

    values, vectors = torch.linalg.eigh(torch.from_numpy(moment))
    return np.maximum(values.numpy()[::-1], 0), vectors.numpy()[:, ::-1]


def prepare(model: Mapping[str, np.ndarray], params: Params) -> Mapping[str, np.ndarray]:
    """What `transform` reads: the model itself."""
    return model


def transform(x: np.ndarray, fitted: Mapping[str, np.ndarray], params: Params) -> np.ndarray:
    """Project x [m, d] to [m, k] float32; a vector at the mean stays zero even with `normalise`."""
    import torch

    if x.shape[1] != len(fitted["mean"]):
        raise NumericsError(
            f"reduce: vectors of length {x.shape[1]} do not fit a model of {len(fitted['mean'])}; "
            "they must come from the features that the model was fitted on"
        )
    matrix = torch.from_numpy((fitted["components"] * fitted["scale"][:, None]).astype(np.float32))  # [k, d]
    y = torch.from_numpy(x.astype(np.float32) - fitted["mean"]) @ matrix.T
    if params.normalise:
        y = torch.nn.functional.normalize(y, dim=1)
    return y.numpy()


def depth(model: Mapping[str, np.ndarray]) -> int:
    """Length of a transformed vector."""
    return len(model["components"])

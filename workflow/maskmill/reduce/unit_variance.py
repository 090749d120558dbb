"""Each dimension divided by its standard deviation, then unit length: no projection, and nothing is subtracted.

Source: MaskDistill (Van Gansbeke et al., 2022) prepares the cls tokens of its crops so before k-means, and calls it
whitening, as scipy does. It is the diagonal of full whitening: dimensions that go together stay together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
from pydantic import Field

from maskmill.errors import NumericsError
from maskmill.recipe.base import Model
from maskmill.reduce import Traits

TRAITS = Traits(max_fit_points=1_000_000)


class Params(Model):
    """Parameters of the scaling."""

    normalise: bool = Field(True, description="scale the vectors to unit length afterwards")


def dimensions(params: Params, depth: int) -> int:
    """The length of the vectors as they are."""
    return depth


def memory_gb(params: Params) -> float:
    """No limit: the vectors are not held."""
    return 0.0


def row_bytes(d: int, params: Params) -> float:
    """Nothing: a few blocks of vectors are held, however many vectors there are."""
    return 0.0


def fit(
    blocks: Callable[[], Iterator[np.ndarray]], params: Params, seed: int = 0
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """The standard deviation of each dimension over all blocks [m, d], in float64 and one pass.

    Args:
        seed: unused, nothing is drawn.

    Returns:
        the model: spread [d] float32, 1 for a dimension that does not vary (as in scipy.cluster.vq.whiten); and
        diagnostics: points, constant (dimensions that do not vary).

    Raises:
        NumericsError: NaN, or no points.
    """
    count, shift, total, square = 0, None, np.zeros(1), np.zeros(1)
    for block in blocks():
        if not len(block):
            continue
        if shift is None:  # rows are shifted, so that a large common offset does not cancel the variance away
            shift = np.nan_to_num(block.mean(axis=0, dtype=np.float64), posinf=0, neginf=0)  # NaN is reported below
        x = block.astype(np.float64) - shift
        count, total, square = count + len(x), total + x.sum(axis=0), square + np.square(x).sum(axis=0)
    if shift is None:
        raise NumericsError("reduce: there are no vectors to fit on; check that the cut finds segments")
    if not np.isfinite(square).all():
        raise NumericsError("reduce: the vectors hold NaN or infinite values; check the features that made them")
    spread = np.sqrt(np.maximum(square / count - np.square(total / count), 0))
    constant = spread <= np.finfo(np.float32).eps * np.abs(shift + total / count)
    return {"spread": np.where(constant, 1, spread).astype(np.float32)}, {
        "points": float(count),
        "constant": float(constant.sum()),
    }


def prepare(model: Mapping[str, np.ndarray], params: Params) -> Mapping[str, np.ndarray]:
    """What `transform` reads: the model itself."""
    return model


def transform(x: np.ndarray, fitted: Mapping[str, np.ndarray], params: Params) -> np.ndarray:
    """Scale x [m, d] to [m, d] float32; a vector of zeros stays zero even with `normalise`."""
    if x.shape[1] != len(fitted["spread"]):
        raise NumericsError(
            f"reduce: vectors of length {x.shape[1]} do not fit a model of {len(fitted['spread'])}; "
            "they must come from the features that the model was fitted on"
        )
    y = x.astype(np.float32) / fitted["spread"]
    if params.normalise:
        length = np.linalg.norm(y, axis=1, keepdims=True)
        y = y / np.where(length > 0, length, 1)
    return np.asarray(y, np.float32)


def depth(model: Mapping[str, np.ndarray]) -> int:
    """Length of a transformed vector."""
    return len(model["spread"])

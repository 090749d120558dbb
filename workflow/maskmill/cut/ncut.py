"""TokenCut: one object by a normalised cut of the token graph.

Wang, Shen, Hu, Yuan, Crowley, Vaufreydaz, "Self-supervised transformers for unsupervised object discovery using
normalized cut", CVPR 2022, section 3. A_ij = 1 where the cosine of the keys exceeds tau, else eps; the second generalised
eigenvector is split at its mean; the object is the connected component of the token of largest magnitude.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from maskmill.config import Model
from maskmill.errors import NumericsError
from maskmill.sampling import rng

if TYPE_CHECKING:
    from maskmill.cut._engine import Fiedler

PLATEAU = 1e-3  # |y| within this share of the maximum is a tie: rounding must not choose the object
CLEAR_GAP = 0.05  # a spectral gap of this size halves the doubt
OUTCOME = {"cut": 0.0, "no structure": 1.0}


class Params(Model):
    """Symbols of the paper."""

    tau: float = Field(0.2, gt=-1, lt=1, description="cosine above which two tokens are joined")
    eps: float = Field(1e-5, gt=0, lt=0.5, description="weight of every other pair")


def cut(tokens: np.ndarray, params: Params, seed: int, image_id: str) -> tuple[np.ndarray, dict[str, float]]:
    """The object's mask (0/1 uint8 [h, w]) of tokens [h, w, d], and diagnostics.

    Diagnostics: lambda_2 (small = a clean cut), lambda_3, gap = lambda_3 - lambda_2 (small = another cut is as good),
    density of the graph (outside 0.05..0.95 tau does not fit the features), steps, residual, outcome (0 cut,
    1 no structure: the mask is empty), and confidence = (1 - lambda_2) gap / (gap + 0.05) in 0..1.

    Raises:
        NumericsError: a token is NaN or infinite.
    """
    import torch

    from maskmill.cut._engine import BinaryAffinity, fiedler

    h, w, _ = tokens.shape
    if not np.isfinite(tokens).all():
        raise NumericsError(f"{image_id}: NaN or infinite tokens; delete its feature store and run snakemake again")
    flat = torch.from_numpy(np.ascontiguousarray(tokens.reshape(h * w, -1), dtype=np.float32))  # [n, d]
    nothing = np.zeros((h, w), np.uint8)
    if h * w < 2:
        return nothing, _diagnostics(None, 1.0)
    affinity = BinaryAffinity.of(flat, params.tau, params.eps)
    if affinity.density in (0.0, 1.0):  # no edges, or all: every vector is an eigenvector
        return nothing, _diagnostics(None, affinity.density)
    start = torch.from_numpy(rng(seed, image_id, "lanczos").standard_normal(h * w).astype(np.float32))
    pair = fiedler(affinity, start)
    if pair.single:
        return nothing, _diagnostics(None, affinity.density)
    mask = object_mask(pair.y.double().numpy().reshape(h, w))
    return mask.astype(np.uint8), _diagnostics(pair, affinity.density)


def object_mask(y: np.ndarray) -> np.ndarray:
    """The object in an eigenvector y [h, w], whatever its sign: bool [h, w].

    On a binary graph y is constant on well separated groups, so many tokens share the largest |y|. Among the
    4-connected components that hold one of them, the largest is taken, then the one with the first token.
    """
    from scipy import ndimage

    above = y > y.mean()
    peak = np.abs(y) >= (1 - PLATEAU) * np.abs(y).max()
    best: tuple[int, int] | None = None
    chosen = np.zeros(y.shape, bool)
    for side in (above, ~above):
        labels, _ = ndimage.label(side)
        sizes = np.bincount(labels.ravel())
        for label in np.unique(labels[peak & side]):
            component = labels == label
            rank = (-int(sizes[label]), int(component.argmax()))
            if best is None or rank < best:
                best, chosen = rank, component
    return chosen


def _diagnostics(pair: Fiedler | None, density: float) -> dict[str, float]:
    if pair is None:
        values = {"lambda_2": 1.0, "lambda_3": 1.0, "gap": 0.0, "residual": 0.0, "steps": 0.0}
        return values | {"density": density, "outcome": OUTCOME["no structure"], "confidence": 0.0}
    gap = max(0.0, pair.following - pair.value)
    confidence = float(np.clip(1 - pair.value, 0, 1)) * gap / (gap + CLEAR_GAP)
    values = {"lambda_2": pair.value, "lambda_3": pair.following, "gap": gap, "residual": pair.residual}
    values |= {"steps": float(pair.steps), "density": density}
    return values | {"outcome": OUTCOME["cut"], "confidence": confidence}

"""TokenCut: one object by a normalised cut of the token graph.

Wang, Shen, Hu, Yuan, Crowley, Vaufreydaz, "Self-supervised transformers for unsupervised object discovery using
normalized cut", CVPR 2022, section 3. A_ij = 1 where the cosine of the keys exceeds tau, else eps; the second
generalised eigenvector is split at its mean; the object is the connected component of the token of largest magnitude.
`side: border` is not in the paper: it decides which side is the object by how little of it touches the image's border.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from maskmill.config import Model

if TYPE_CHECKING:
    from maskmill.cut._engine import Spectrum

OUTCOMES = {"cut": 0, "one token": 1, "all joined": 2, "none joined": 3, "no unique cut": 4}


class Params(Model):
    """Symbols of the paper."""

    tau: float = Field(0.2, gt=-1, lt=1, description="cosine above which two tokens are joined")
    eps: float = Field(1e-5, ge=1e-8, le=0.1, description="weight of every other pair")
    component: Literal["seed", "largest", "all"] = Field(
        "seed", description="which connected part of the object's side"
    )
    side: Literal["peak", "border"] = Field("peak", description="object: holds the largest |y|, or avoids the border")


def cut(tokens: np.ndarray, params: Params, seed: int, image_id: str) -> tuple[np.ndarray, dict[str, float]]:
    """The object's mask (0/1 uint8 [h, w]) of tokens [h, w, d], and diagnostics.

    Diagnostics, all float:
        confidence: (1 - lambda_2 / lambda_3) * min(1, density / 0.05, (1 - density) / 0.05), in 0..1.
        lambda_2, lambda_3, gap: lambda_2 near 1 = no structure; gap = lambda_3 - lambda_2 near 0 = another cut is as
            good; 1, 1, 0 where there is no structure.
        density: share of joined pairs; outside 0.05..0.95 tau does not fit the features.
        rivals: other components that tie with the object (see maskmill.cut._object).
        steps, residual: of the solver; steps 0 where the dense solver ran or none was needed.
        outcome: see OUTCOMES. Anything but 0 means: segments all 0, confidence 0.

    Raises:
        NumericsError: a token is NaN or infinite.
    """
    import torch

    from maskmill.cut._affinity import BinaryAffinity
    from maskmill.cut._engine import solve
    from maskmill.cut._object import object_of
    from maskmill.cut._tokens import flat_tokens
    from maskmill.sampling import rng

    h, w = tokens.shape[:2]
    flat = torch.from_numpy(flat_tokens(tokens, image_id))  # [n, d]
    affinity = BinaryAffinity.of(flat, params.tau, params.eps)
    outcome = _without_solving(h * w, affinity.density)
    if outcome is not None:
        return _no_structure(h, w, outcome, affinity.density)
    spectrum = solve(affinity, 1, rng(seed, image_id, "lanczos"))
    if spectrum.multiple:
        return _no_structure(h, w, "no unique cut", affinity.density)
    y = spectrum.vectors[0].double().numpy().reshape(h, w)
    found = object_of(y, component=params.component, border=params.side == "border")
    return found.mask.astype(np.uint8), _diagnostics(spectrum, affinity.density, found.rivals)


def confidence(lambda_2: float, lambda_3: float, density: float) -> float:
    """How far the best cut is ahead of the next, less where tau does not fit the features: 0..1.

    1 - lambda_2 / lambda_3 is 0 for two equally good cuts and for a graph without structure (both near 1), and 1 for a
    perfect cut. The factor falls linearly to 0 as the share of joined pairs leaves 0.05..0.95.
    """
    ahead = 1 - lambda_2 / max(lambda_3, 1e-12)
    return float(np.clip(ahead, 0, 1) * np.clip(min(density, 1 - density) / 0.05, 0, 1))


def _without_solving(n: int, density: float) -> str | None:
    """The outcome where every vector is an eigenvector, or None."""
    if n < 2:
        return "one token"
    return {0.0: "none joined", 1.0: "all joined"}.get(density)


def _no_structure(h: int, w: int, outcome: str, density: float) -> tuple[np.ndarray, dict[str, float]]:
    values = {"lambda_2": 1.0, "lambda_3": 1.0, "gap": 0.0, "density": density, "rivals": 0.0}
    values |= {"steps": 0.0, "residual": 0.0, "outcome": float(OUTCOMES[outcome])}
    return np.zeros((h, w), np.uint8), {"confidence": 0.0} | values


def _diagnostics(spectrum: Spectrum, density: float, rivals: int) -> dict[str, float]:
    lambda_2, lambda_3 = (float(value) for value in spectrum.values)
    values = {"confidence": confidence(lambda_2, lambda_3, density), "lambda_2": lambda_2, "lambda_3": lambda_3}
    values |= {"gap": lambda_3 - lambda_2, "density": density, "rivals": float(rivals)}
    return values | {"steps": float(spectrum.steps), "residual": spectrum.residual, "outcome": 0.0}

"""Whether a graph has a cut at all, and how sure it is: what the spectral cuts share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from maskmill.cut._engine import Spectrum

OUTCOMES = {"cut": 0, "one token": 1, "all joined": 2, "none joined": 3, "no unique cut": 4}


def without_solving(n: int, density: float) -> str | None:
    """The outcome where every vector of n tokens is an eigenvector, or None. `density`: share of joined pairs."""
    if n < 2:
        return "one token"
    return {0.0: "none joined", 1.0: "all joined"}.get(density)


def confidence(lambda_2: float, lambda_3: float, density: float) -> float:
    """How far the best cut is ahead of the next, less where tau does not fit the features: 0..1.

    1 - lambda_2 / lambda_3 is 0 for two equally good cuts and for a graph without structure (both near 1), and 1 for a
    perfect cut. The factor falls linearly to 0 as the share of joined pairs leaves 0.05..0.95.
    """
    ahead = 1 - lambda_2 / max(lambda_3, 1e-12)
    return float(np.clip(ahead, 0, 1) * density_factor(density))


def density_factor(density: float) -> float:
    """1 where the share of joined pairs is in 0.05..0.95, falling linearly to 0 at 0 and 1."""
    return float(np.clip(min(density, 1 - density) / 0.05, 0, 1))


def no_structure(outcome: int, density: float) -> dict[str, float]:
    """The diagnostics of a graph without a cut; `outcome` is its code."""
    values = {"confidence": 0.0, "lambda_2": 1.0, "lambda_3": 1.0, "gap": 0.0, "density": density, "rivals": 0.0}
    return values | {"steps": 0.0, "residual": 0.0, "outcome": float(outcome)}


def diagnostics(spectrum: Spectrum, density: float, rivals: int) -> dict[str, float]:
    """The diagnostics of a cut, one number each; see `maskmill.cut.ncut.cut`."""
    lambda_2, lambda_3 = (float(value) for value in spectrum.values[:2])
    values = {"confidence": confidence(lambda_2, lambda_3, density), "lambda_2": lambda_2, "lambda_3": lambda_3}
    values |= {"gap": lambda_3 - lambda_2, "density": density, "rivals": float(rivals)}
    return values | {"steps": float(spectrum.steps), "residual": spectrum.residual, "outcome": float(OUTCOMES["cut"])}

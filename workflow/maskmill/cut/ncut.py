"""TokenCut: one object by a normalised cut of the token graph.

Wang, Shen, Hu, Yuan, Crowley, Vaufreydaz, "Self-supervised transformers for unsupervised object discovery using
normalized cut", CVPR 2022, section 3. A_ij = 1 where the cosine of the keys exceeds tau, else eps; the second
generalised eigenvector is split at its mean; the object is the connected component of the token of largest magnitude.
`side: border` is not in the paper: it decides which side is the object by how little of it touches the image's border.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from maskmill.cut import Need, Traits
from maskmill.cut._structure import OUTCOMES, diagnostics, no_structure, without_solving
from maskmill.recipe.base import Model

if TYPE_CHECKING:
    from maskmill.cut._engine import Spectrum


TRAITS = Traits(batched=True, outcomes=OUTCOMES)


class Params(Model):
    """Symbols of the paper."""

    tau: float = Field(0.2, gt=-1, lt=1, description="cosine above which two tokens are joined")
    eps: float = Field(1e-5, ge=1e-8, le=0.1, description="weight of every other pair")
    component: Literal["seed", "largest", "all"] = Field(
        "seed", description="which connected part of the object's side"
    )
    side: Literal["peak", "border"] = Field("peak", description="object: holds the largest |y|, or avoids the border")


def needs(params: Params) -> tuple[Need, ...]:
    """Nothing but the tokens."""
    return ()


def regions_per_image(params: Params, code_length: int) -> int:
    """One object."""
    return 1


def cut(tokens: np.ndarray, params: Params, seed: int, image_id: str) -> tuple[np.ndarray, dict[str, float]]:
    """The object's mask (0/1 uint8 [h, w]) of tokens [h, w, d], and diagnostics.

    Diagnostics, all float:
        confidence: (1 - lambda_2 / lambda_3) * min(1, density / 0.05, (1 - density) / 0.05), in 0..1.
        lambda_2, lambda_3, gap: lambda_2 near 1 = no structure; gap = lambda_3 - lambda_2 near 0 = another cut is as
            good; 1, 1, 0 where there is no structure.
        density: share of joined pairs; outside 0.05..0.95 tau does not fit the features.
        rivals: other components that tie with the object (see maskmill.cut._object).
        steps, residual: of the solver; steps 0 where the dense solver ran or none was needed.
        outcome: see TRAITS. Anything but 0 means: segments all 0, confidence 0.

    Raises:
        NumericsError: a token is NaN or infinite.
    """
    import torch

    from maskmill.cut._affinity import BinaryAffinity
    from maskmill.cut._engine import solve
    from maskmill.cut._tokens import flat_tokens
    from maskmill.numerics.sampling import rng

    h, w = tokens.shape[:2]
    affinity = BinaryAffinity.of(torch.from_numpy(flat_tokens(tokens, image_id)), params.tau, params.eps)
    outcome = without_solving(h * w, affinity.density)
    if outcome is not None:
        return np.zeros((h, w), np.uint8), no_structure(OUTCOMES[outcome], affinity.density)
    spectrum = solve(affinity, 1, rng(seed, image_id, "lanczos"))
    return _object(spectrum, affinity.density, h, w, params)


def cut_batch(
    tokens: np.ndarray, params: Params, seed: int, ids: Sequence[str], device: str
) -> list[tuple[np.ndarray, dict[str, float]]]:
    """`cut` for images of one grid, tokens [b, h, w, d], together on a device."""
    import torch

    from maskmill.cut._affinity import BinaryBatch
    from maskmill.cut._batch import solve_batch
    from maskmill.cut._tokens import flat_tokens
    from maskmill.numerics.sampling import rng

    h, w = tokens.shape[1:3]
    flat = np.stack([flat_tokens(image, image_id) for image, image_id in zip(tokens, ids, strict=True)])
    batch = BinaryBatch.of(torch.from_numpy(flat).to(device), params.tau, params.eps)
    outcomes = [without_solving(h * w, density) for density in batch.density]
    open_ = [i for i, outcome in enumerate(outcomes) if outcome is None]
    spectra = solve_batch(batch.select(open_), 1, [rng(seed, ids[i], "lanczos") for i in open_]) if open_ else []
    solved = dict(zip(open_, spectra, strict=True))
    return [
        (np.zeros((h, w), np.uint8), no_structure(OUTCOMES[outcome], density))
        if outcome is not None
        else _object(solved[i], density, h, w, params)
        for i, (outcome, density) in enumerate(zip(outcomes, batch.density, strict=True))
    ]


def _object(spectrum: Spectrum, density: float, h: int, w: int, params: Params) -> tuple[np.ndarray, dict[str, float]]:
    """The mask and the diagnostics of a solved graph."""
    from maskmill.cut._object import object_of

    if spectrum.multiple:
        return np.zeros((h, w), np.uint8), no_structure(OUTCOMES["no unique cut"], density)
    y = spectrum.vectors[0].double().cpu().numpy().reshape(h, w)
    found = object_of(y, component=params.component, border=params.side == "border")
    return found.mask.astype(np.uint8), diagnostics(spectrum, density, found.rivals)

"""k-means on the tokens of each image: every token gets a segment. The plain way to over-segment.

Groups are groups of tokens that look alike, wherever they are: a segment need not be connected (`position` pulls
tokens of one place together).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from maskmill.cut import Need, Traits
from maskmill.recipe.base import Model

if TYPE_CHECKING:
    import torch

TRAITS = Traits()
ITERATIONS = 100
IDENTICAL = 1e-6  # mean squared distance of unit tokens below which they are the same up to rounding


class Params(Model):
    """k-means an image."""

    segments: int = Field(8, ge=2, le=254, description="k-means groups an image (fewer where tokens are alike)")
    position: float = Field(0.0, ge=0, description="weight of the token's place (0..1 each way) beside its unit vector")


def needs(params: Params) -> tuple[Need, ...]:
    """Nothing but the tokens."""
    return ()


def regions_per_image(params: Params, code_length: int) -> int:
    """A segment a group."""
    return params.segments


def cut(tokens: np.ndarray, params: Params, seed: int, image_id: str) -> tuple[np.ndarray, dict[str, float]]:
    """Groups 1..k (uint8 [h, w]) of tokens [h, w, d], numbered by their first token, row by row.

    Squared Euclidean distance between tokens of length one (2 - 2 cosine), k-means++ start, Lloyd until nothing moves.

    Diagnostics: confidence = explained share of the variance; groups = k; iterations. Where all tokens are the same
    there is no structure: segments all 0, confidence 0.

    Raises:
        NumericsError: a token is NaN or infinite.
    """
    import torch

    from maskmill.cut._tokens import flat_tokens
    from maskmill.numerics.sampling import rng

    h, w = tokens.shape[:2]
    x = torch.from_numpy(flat_tokens(tokens, image_id))  # [n, d]
    x = x / x.abs().amax(1, keepdim=True).clamp_min(1e-38)  # no overflow in the norm
    x = x / x.norm(dim=1, keepdim=True).clamp_min(0.5)  # zero tokens stay zero
    if params.position:
        place = np.mgrid[:h, :w].reshape(2, -1).T.astype(np.float32) / max(h, w)  # [n, 2]
        x = torch.cat([x, params.position * torch.from_numpy(place)], 1)
    total = float((x - x.mean(0)).square().sum(dtype=torch.float64))
    if total <= IDENTICAL * len(x):
        return np.zeros((h, w), np.uint8), {"confidence": 0.0, "groups": 0.0, "iterations": 0.0}
    labels, inertia, iterations = lloyd(x, plus_plus(x, params.segments, rng(seed, image_id, "kmeans")))
    segments = _by_first_token(labels.numpy()).reshape(h, w)
    explained = min(1.0, max(0.0, 1 - inertia / total))
    return segments, {"confidence": explained, "groups": float(segments.max()), "iterations": float(iterations)}


def lloyd(x: torch.Tensor, centres: torch.Tensor) -> tuple[torch.Tensor, float, int]:
    """Lloyd's iterations from centres [k, d] on x [n, d]: labels [n], inertia, iterations. An empty group stays put."""
    import torch

    labels, iteration = torch.full((len(x),), -1), 0
    while iteration < ITERATIONS:
        iteration += 1
        distance, new = _squared(x, centres).min(1)
        if torch.equal(new, labels):
            break
        labels = new
        member = torch.nn.functional.one_hot(labels, len(centres)).to(x.dtype)  # [n, k]
        count = member.sum(0)[:, None]
        centres = torch.where(count > 0, member.T @ x / count.clamp_min(1), centres)
    return labels, float(distance.sum(dtype=torch.float64)), iteration


def plus_plus(x: torch.Tensor, k: int, generator: np.random.Generator) -> torch.Tensor:
    """k-means++: each next centre is a token drawn with probability ~ its squared distance to the nearest so far."""
    import torch

    centres = x[[int(generator.integers(len(x)))]]
    nearest = _squared(x, centres)[:, 0]
    while len(centres) < k:
        cumulative = nearest.double().cumsum(0)
        if float(cumulative[-1]) <= IDENTICAL * len(x):  # fewer kinds of tokens than k
            break
        pick = int(torch.searchsorted(cumulative, generator.random() * float(cumulative[-1]), right=True))
        centres = torch.cat([centres, x[[min(pick, len(x) - 1)]]])
        nearest = torch.minimum(nearest, _squared(x, centres[-1:])[:, 0])
    return centres


def _squared(x: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
    """Squared distances [n, k]."""
    import torch

    norms = x.square().sum(1, keepdim=True) + centres.square().sum(1)
    return torch.addmm(norms, x, centres.T, alpha=-2).clamp_min(0)


def _by_first_token(labels: np.ndarray) -> np.ndarray:
    """Labels renumbered 1, 2, ... in the order of their first token: uint8 [n]."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.uint8)
    rank[np.argsort(first)] = np.arange(1, len(first) + 1)
    return rank[inverse]

"""DiffCut: regions by cutting an image in two again and again, while a cut is cheap enough.

Couairon, Shukor, Haugeard, Cord, Thome, "DiffCut: catalyzing zero-shot semantic segmentation with diffusion features
and recursive normalized cut", NeurIPS 2024, sections 3.2 and 3.3. The affinity is that of the cosines, scaled to 0..1
in the image and raised to `alpha`. A part is split where the Ncut of `thresholds` places of its second eigenvector is
least, unless that costs `tau`. At the end every token goes to the region whose mean is most like it. The features may
be any; the paper's are those of a diffusion network.

Differences from the published code: scaling makes the cosine of the most unlike pair zero, and the code takes tokens
with such a zero for tokens of another part, so that they are split no further (`compat: diffcut` does so too);
prototypes are compared on the grid of the tokens, not on one four times as fine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from maskmill.cut import Need, Traits
from maskmill.recipe.base import Model

if TYPE_CHECKING:
    import torch

    from maskmill.cut._weighted import WeightedAffinity

TRAITS = Traits(outcomes={"cut": 0, "one token": 1, "no structure": 2})
INSIDE = 0.99  # thresholds lie between this share of the least and of the largest entry


class Params(Model):
    """Symbols of the paper."""

    tau: float = Field(0.5, gt=0, le=2, description="cuts of a larger Ncut are not made")
    alpha: float = Field(  # far above 30 every token is a part of its own, and no solver tells the eigenvalues apart
        10.0, gt=0, le=30, description="power of the cosines, scaled to 0..1 in each image"
    )
    thresholds: int = Field(100, ge=2, le=1000, description="places at which an eigenvector may be split")
    segments: int = Field(64, ge=2, le=254, description="regions at most; the cheapest cuts come first")
    assign: Literal["prototypes", "cut"] = Field(
        "prototypes", description="a token's region: that of the most similar mean, or as it was cut"
    )
    keep: Literal["all", "objects"] = Field(
        "all", description="objects: regions with a larger share of the border than of the image are 0"
    )
    compat: Literal["diffcut"] | None = Field(None, description="diffcut: tokens of the most unlike pair are cut once")


def needs(params: Params) -> tuple[Need, ...]:
    """Nothing but the tokens."""
    return ()


def regions_per_image(params: Params, code_length: int) -> int:
    """A segment a region."""
    return params.segments


def cut(tokens: np.ndarray, params: Params, seed: int, image_id: str) -> tuple[np.ndarray, dict[str, Any]]:
    """Regions 1..k (uint8 [h, w]) of tokens [h, w, d], numbered by their first token, row by row.

    Where no cut is cheaper than tau the image is one region.

    Diagnostics:
        confidence: 1 - Ncut / (groups - 1) of all regions, 0 where there is one; scores float32 [segments]: the same of
            each region (see maskmill.cut._partition). last: Ncut of the last cut made.
        groups: how many, the dropped ones included.
        outcome: see TRAITS; anything but 0 means segments all 0, confidence 0.

    Raises:
        NumericsError: a token is NaN or infinite.
    """
    import torch

    from maskmill.cut._affinity import unit_rows
    from maskmill.cut._partition import compact, group_scores, group_sums, ncut_confidence, padded, without_ground
    from maskmill.cut._recursion import recursion
    from maskmill.cut._tokens import flat_tokens
    from maskmill.cut._weighted import WeightedAffinity, scaled_cosines
    from maskmill.numerics.sampling import rng

    h, w = tokens.shape[:2]
    flat = torch.from_numpy(flat_tokens(tokens, image_id))
    matrix = scaled_cosines(flat, params.alpha)
    if h * w < 2 or matrix is None:
        outcome = TRAITS.outcomes["one token" if h * w < 2 else "no structure"]
        nothing = {"confidence": 0.0, "scores": padded(np.zeros(0), params.segments), "last": 0.0, "groups": 0.0}
        return np.zeros((h, w), np.uint8), nothing | {"outcome": float(outcome)}
    generator = rng(seed, image_id, "lanczos")
    once = (matrix == 0).any(1).numpy() if params.compat else np.zeros(h * w, bool)

    def split(part: np.ndarray) -> tuple[float, np.ndarray]:
        kept = np.ones(h * w, bool) if len(part) == h * w else ~once[part]
        above = np.zeros(len(part), bool)
        value, above[kept] = two_parts(matrix, part[kept], params.thresholds, generator)
        return value, above

    labels, last = recursion(h * w, params.segments, params.tau, split)
    labels = compact(labels)
    if params.assign == "prototypes":
        labels = compact(by_prototypes(unit_rows(flat), labels))
    affinity = WeightedAffinity.of(matrix)
    products, degree = group_sums(affinity.matrix, labels, int(labels.max()) + 1), affinity.degree.double().numpy()
    segments, kept = without_ground(labels.reshape(h, w), params.keep == "objects")
    return segments, {
        "confidence": ncut_confidence(products, degree, labels),
        "scores": padded(group_scores(products, degree, labels)[kept], params.segments),
        "last": last, "groups": float(len(products)), "outcome": 0.0,
    }  # fmt: skip


def two_parts(
    matrix: torch.Tensor, part: np.ndarray, thresholds: int, generator: np.random.Generator
) -> tuple[float, np.ndarray]:
    """The least Ncut of splitting y_2 of a part's graph, and the side above it, bool [m].

    Thresholds are evenly spaced, the first of equal ones is taken. Infinite, and the side empty, where there is nothing
    to split.

    Args:
        matrix: the affinity [n, n] of all tokens. part: numbers of the part's tokens [m].
    """
    import torch

    from maskmill.cut._engine import solve
    from maskmill.cut._weighted import WeightedAffinity

    nothing = np.inf, np.zeros(len(part), bool)
    if len(part) < 2:
        return nothing
    rows = torch.from_numpy(part)
    affinity = WeightedAffinity.of(matrix[rows][:, rows] if len(part) < len(matrix) else matrix.clone())
    y = solve(affinity, 1, generator).vectors[0].numpy()
    places = np.linspace(INSIDE * y.min(), INSIDE * y.max(), thresholds, dtype=np.float32)
    costs = nested_ncuts(affinity, (y[:, None] > places).sum(1), thresholds)
    best = int(costs.argmin())
    return (float(costs[best]), y > places[best]) if np.isfinite(costs[best]) else nothing


def nested_ncuts(affinity: WeightedAffinity, level: np.ndarray, count: int) -> np.ndarray:
    """Ncut of the sides `level > i` for i in 0..count-1: float64 [count], infinite where a side is empty.

    The sides lie within each other, so the tokens of one level are added once and then summed up.

    Args:
        level: int64 [n] in 0..count: how many of the ascending thresholds a token exceeds.
    """
    from maskmill.cut._partition import group_sums

    degree = affinity.degree.double().numpy()
    rows = group_sums(affinity.matrix, level, count + 1)  # [count + 1, n]
    both = np.stack([np.bincount(level, row, minlength=count + 1) for row in rows])
    inside = both[::-1, ::-1].cumsum(0).cumsum(1)[::-1, ::-1].diagonal()[1:]  # of levels i + 1 and above
    volume = np.bincount(level, degree, minlength=count + 1)[::-1].cumsum()[::-1][1:]
    size = np.bincount(level, minlength=count + 1)[::-1].cumsum()[::-1][1:]
    with np.errstate(divide="ignore", invalid="ignore"):
        values = (volume - inside) * (1 / volume + 1 / (degree.sum() - volume))
    return np.where((size > 0) & (size < len(level)), np.maximum(values, 0), np.inf)


def by_prototypes(unit: torch.Tensor, labels: np.ndarray) -> np.ndarray:
    """Labels [n] of the regions whose mean of unit tokens [n, d] has the largest product with each token."""
    from maskmill.cut._partition import indicators

    member = indicators(labels)
    means = (member @ unit.numpy()) / member.sum(1, keepdims=True)
    return np.asarray((unit.numpy() @ means.T).argmax(1))

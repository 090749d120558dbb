"""LOST: one object from the token that the fewest others resemble, grown by its friends. No eigenproblem.

Simeoni, Puy, Vo, Roburin, Gidaris, Bursuc, Perez, Marlet, Ponce, "Localizing objects with self-supervised transformers
and no labels", BMVC 2021, section 3.2. The products of the keys are not normalised: only their sign counts for degrees,
but long keys weigh more in the expansion.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from maskmill.cut import Need, Traits
from maskmill.cut._structure import OUTCOMES as SHARED
from maskmill.cut._structure import density_factor, without_solving
from maskmill.recipe.base import Model

if TYPE_CHECKING:
    import torch

TRAITS = Traits(
    outcomes={name: code for name, code in SHARED.items() if name != "no unique cut"}
    | {"equal degrees": 4, "no seed": 5}
)


class Params(Model):
    """Symbols of the paper."""

    k: int = Field(100, ge=1, le=65536, description="tokens of lowest degree among which the seed looks for friends")


def needs(params: Params) -> tuple[Need, ...]:
    """Nothing but the tokens."""
    return ()


def regions_per_image(params: Params, code_length: int) -> int:
    """One object."""
    return 1


def cut(tokens: np.ndarray, params: Params, seed: int, image_id: str) -> tuple[np.ndarray, dict[str, float]]:
    """The object's mask (0/1 uint8 [h, w]) of tokens [h, w, d], and diagnostics. Nothing is drawn at random.

    The degree of a token is the number of other tokens with which its product is positive. The seed is the token of
    the lowest degree; of several, the one whose products with all tokens have the smallest sum, then the first row by
    row. Friends are those of the k tokens of lowest degree with a positive product with the seed. The object is the
    4-connected component of the seed in the tokens whose products with the friends have a positive sum.

    Diagnostics, all float:
        confidence: (1 - degree in the mask / degree outside) * min(1, density / 0.05, (1 - density) / 0.05), with mean
            degrees, in 0..1: LOST takes the object to be what resembles less of the image than the rest does.
        degree: share of the other tokens that the seed has a positive product with. friends: how many, the seed
            included. density: share of pairs with a positive product.
        outcome: see TRAITS; "equal degrees": all tokens have one degree; "no seed": the token of lowest degree is
            zero. Anything but 0 means: segments all 0, confidence 0.

    Raises:
        NumericsError: a token is NaN or infinite.
    """
    import torch

    from maskmill.cut._affinity import strips_times, threshold_strips
    from maskmill.cut._tokens import flat_tokens

    h, w = tokens.shape[:2]
    n = h * w
    flat = torch.from_numpy(flat_tokens(tokens, image_id))  # [n, d]
    flat = flat / flat.abs().max().clamp_min(torch.finfo(flat.dtype).tiny)  # products can not overflow
    degree = strips_times(threshold_strips(flat, 0.0), flat.new_ones(1, n))[0].double().numpy() - 1
    density = float(degree.sum()) / max(1, n * (n - 1))
    outcome = without_solving(n, density) or ("equal degrees" if np.ptp(degree) == 0 else None)
    order = _by_degree(flat, degree)
    if outcome is None and not flat[order[0]].any():
        outcome = "no seed"
    if outcome is not None:
        values = {"degree": float(degree[0]) / max(1, n - 1), "friends": 0.0, "density": density}
        return np.zeros((h, w), np.uint8), {"confidence": 0.0} | values | {"outcome": float(TRAITS.outcomes[outcome])}
    mask, friends = _expand(flat, order[: params.k], h, w)
    return mask.astype(np.uint8), {
        "confidence": _contrast(degree, mask.ravel()) * density_factor(density),
        "degree": float(degree[order[0]]) / (n - 1),
        "friends": float(friends),
        "density": density,
        "outcome": float(TRAITS.outcomes["cut"]),
    }


def _by_degree(flat: torch.Tensor, degree: np.ndarray) -> np.ndarray:
    """Tokens by increasing degree; equal ones by the sum of their products with all tokens, then by place.

    The sum depends on the image's content only, so that a mirrored image has the mirrored object.
    """
    exact = flat.double()
    total = (exact @ exact.sum(0)).numpy()
    return np.lexsort((total, degree))


def _expand(flat: torch.Tensor, candidates: np.ndarray, h: int, w: int) -> tuple[np.ndarray, int]:
    """The object's mask, bool [h, w], of the seed candidates[0], and how many friends it has."""
    from scipy import ndimage

    seed = int(candidates[0])
    near = flat[candidates.tolist()]
    friends = near[near @ flat[seed] > 0]
    positive = (flat @ friends.sum(0) > 0).numpy().reshape(h, w)  # the sum of products is the product with the sum
    labels, _ = ndimage.label(positive)
    return labels == labels.flat[seed], len(friends)


def _contrast(degree: np.ndarray, mask: np.ndarray) -> float:
    """1 - mean degree inside / outside, in 0..1; 0 where there is no outside."""
    if mask.all():
        return 0.0
    outside = degree[~mask].mean()
    return float(np.clip(1 - degree[mask].mean() / outside, 0, 1)) if outside > 0 else 0.0

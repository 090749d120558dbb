"""Argmax: the cut that a head has learnt. Codes are masks of parts of an image, and a token is in its strongest one."""

from __future__ import annotations

from typing import Any

import numpy as np

from maskmill.cut import Need, Traits
from maskmill.recipe.base import Model

TRAITS = Traits(reads_codes=True)
MOST = 254  # segments are uint8


class Params(Model):
    """There is nothing to choose."""


def needs(params: Params) -> tuple[Need, ...]:
    """Nothing but the codes."""
    return ()


def regions_per_image(params: Params, code_length: int) -> int:
    """A segment a channel of the codes."""
    return code_length


def cut(tokens: np.ndarray, params: Params, seed: int, image_id: str) -> tuple[np.ndarray, dict[str, Any]]:
    """Segments (uint8 [h, w]) of codes [h, w, k] >= 0: 1, 2, ... for each channel that wins a token, in their order.

    A tie goes to the first channel; a token whose codes are all 0 is in no segment. A token's share is its largest code
    over the sum of its codes; of one channel, which is a mask of objects, it is the code itself, and 0 elsewhere.

    Diagnostics: confidence = mean share of all tokens; scores float32 [k]: the same of each segment, 0 beyond the last;
    groups = number of segments.

    Raises:
        NumericsError: a code is NaN, infinite or negative, or there are more than 254 channels.
    """
    from maskmill.cut._partition import padded
    from maskmill.cut._tokens import flat_tokens
    from maskmill.errors import NumericsError

    h, w, k = tokens.shape
    codes = flat_tokens(tokens, image_id)
    if k > MOST or (codes < 0).any():
        what = f"{k} channels (at most {MOST})" if k > MOST else f"negative codes, the least {codes.min():.3g}"
        advice = "it reads masks, as adapt.method acseg, dinosaur and found make them"
        raise NumericsError(f"{image_id}: cut.method argmax: {what}; {advice}")
    total = codes.sum(1, dtype=np.float64)
    share = codes.max(1) / np.maximum(total, np.finfo(np.float64).tiny) if k > 1 else np.minimum(total, 1.0)
    winner = np.where(total > 0, codes.argmax(1) + 1, 0)
    size = np.bincount(winner, minlength=k + 1)[1:]
    number = np.concatenate([[0], np.cumsum(size > 0)]).astype(np.uint8)
    scores = (np.bincount(winner, share, k + 1)[1:] / np.maximum(size, 1))[size > 0]
    found = {"confidence": float(share.mean()), "scores": padded(scores, k), "groups": float(len(scores))}
    return number[winner].reshape(h, w), found

"""One vector a segment: the mean of the backbone's tokens under the segment, on its own crop of the original photo.

The crop gives a small object as many tokens as a large one (COMUS and MaskDistill crop for that), and the mean under
the segment leaves the surroundings out without painting over them (for convolutional features: Dai et al.,
"Convolutional feature masking", CVPR 2015). It needs no cls token, so it is the crop pooling for CNNs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from maskmill.regions import Traits, crop_cls, mean

if TYPE_CHECKING:
    import torch

TRAITS = Traits(photos=True, masked=True)


class Params(crop_cls.Params):
    """Parameters of mean pooling on crops; those of `crop_cls`, and their defaults."""


def pool(tokens: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Mean [d] float32 of the tokens [h, w, d] of a crop under its mask [H, W]; of all of them where it is empty."""
    whole = inside if inside.any() else np.ones_like(inside)
    return mean.pool(tokens, (whole != 0).astype(np.uint8), mean.Params())[0][0]


def vectors(tokens: torch.Tensor, cls: torch.Tensor, inside: np.ndarray | None) -> np.ndarray:
    """`pool` of b crops, tokens [b, h, w, d] and masks [b, H, W]: [b, d]."""
    assert inside is not None
    pairs = zip(tokens.float().cpu().numpy(), inside, strict=True)
    return np.stack([pool(tokens_of, mask) for tokens_of, mask in pairs])

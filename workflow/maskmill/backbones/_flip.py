"""Flip averaging: the outputs of an image and of its mirror image, mirrored back, as one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def averaged(
    outputs: Callable[[torch.Tensor], tuple[Any, ...]], images: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, None]:
    """Tokens [b, h, w, d] and cls [b, d]: means of those of images [b, H, W, 3] and of their mirror images.

    There is no query of the cls token: means of queries and keys do not give the mean of two images' attentions.

    Args:
        outputs: `maskmill.backbones.Dense.outputs`.
    """
    (tokens, cls, _), (mirrored, other, _) = outputs(images), outputs(images.flip(2))
    return (tokens + mirrored.flip(2)) / 2, (cls + other) / 2, None

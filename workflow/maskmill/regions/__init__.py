"""Stage `regions`: segments -> one vector a segment. What a pooling, which is a method of this stage, must bring.

A pooling is one file of this folder, a module that satisfies `Method`. One that reads stored tokens satisfies
`TokenPooling`, one that looks at photos satisfies `CropPooling`. Importing this package is cheap, because every job
imports the methods of its recipe.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    import torch

    from maskmill.recipe.base import Model


@dataclass(frozen=True)
class Traits:
    """Facts about a pooling that hold whatever its parameters are.

    Attributes:
        pools: segments are pooled; without it every token is a region of its own, and no job runs.
        photos: a backbone looks at crops of the photos; without it stored tokens are pooled.
        masked: with `photos`, the pooling wants to know where in its crop the segment lies.
    """

    pools: bool = True
    photos: bool = False
    masked: bool = False


class Method(Protocol):
    """A pooling, or the choice of none.

    Attributes:
        Params: the method's parameters, a frozen `maskmill.recipe.base.Model`. TRAITS: facts about the method.
    """

    Params: type[Model]
    TRAITS: Traits


class TokenPooling(Method, Protocol):
    """A pooling of stored tokens."""

    def pool(self, tokens: np.ndarray, segments: np.ndarray, params: Any) -> tuple[np.ndarray, np.ndarray]:
        """Vectors [r, d] float32 of segments [H, W] (0: none) over tokens [h, w, d], and their ids [r], ascending."""


class CropPooling(Method, Protocol):
    """A pooling of what a backbone says of crops; its parameters are those of `crop_cls`, which say what is cropped."""

    def vectors(self, tokens: torch.Tensor, cls: torch.Tensor, inside: np.ndarray | None) -> np.ndarray:
        """Vectors [b, d] float32 of b crops of one size.

        Args:
            tokens: [b, h, w, d] of the crops. cls: [b, d], their cls outputs.
            inside: uint8 [b, H, W], above 0 on the segment's pixels; None where `Traits.masked` is false.
        """

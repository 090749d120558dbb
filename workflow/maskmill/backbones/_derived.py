"""What a backbone is that makes its tokens from those of another one."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from maskmill.backbones import Dense
    from maskmill.recipe.feature_set import FeatureSet


class Derived:
    """A `maskmill.backbones.Dense` over another one: the same images and grid, and no query of a cls token.

    There is no query because the attention of a changed key is not that of the network.
    """

    heads: int | None = None

    def __init__(self, feature_set: FeatureSet, source: Dense) -> None:
        self.set, self.source, self.device, self.digest = feature_set, source, source.device, source.digest
        self.stride, self.multiple, self.depth = source.stride, source.multiple, source.depth
        self.mean, self.std = source.mean, source.std

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Dense`."""
        raise NotImplementedError

    def outputs(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        """The two of `forward`, and no query of a cls token."""
        return *self.forward(images), None

"""Tokens of several networks, or of several layers of one, beside one another on one grid."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from maskmill.backbones._derived import Derived

if TYPE_CHECKING:
    import torch

    from maskmill.backbones import Dense
    from maskmill.recipe.feature_set import FeatureSet


class Concatenated(Derived):
    """Tokens of which every part has the length that its weight says: 1 for the set's own, `weight` for the others.

    The grid is that of the first. The others see the image resized so that they have the same grid: no tokens are
    resampled, and a network of small patches sees a smaller image. cls vectors lie beside one another likewise.

    With equal weights the cosine of two tokens is the mean of their parts' cosines, so no network counts more because
    its numbers are larger or more.
    """

    def __init__(self, feature_set: FeatureSet, parts: Sequence[Dense]) -> None:
        super().__init__(feature_set, parts[0])
        self.parts = tuple(parts)
        self.weights = (1.0, *(part.weight for part in feature_set.concat or ()))
        self.depth = sum(part.depth for part in parts)
        self.digest = hashlib.sha256(" ".join(part.digest for part in parts).encode()).hexdigest()

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Dense`."""
        import torch
        from torch.nn.functional import normalize

        grid = images.shape[1] // self.multiple, images.shape[2] // self.multiple
        found = [part.forward(on_grid(images, grid, part.multiple)) for part in self.parts]
        tokens, cls = (
            torch.cat(
                [weight * normalize(each[i], dim=-1) for weight, each in zip(self.weights, found, strict=True)], -1
            )
            for i in range(2)
        )
        return tokens, cls


def on_grid(images: torch.Tensor, grid: tuple[int, int], multiple: int) -> torch.Tensor:
    """Images uint8 [b, H, W, C] of so many tokens (h, w), `multiple` pixels a side each; those that are stay."""
    import torch
    from torch.nn.functional import interpolate

    size = grid[0] * multiple, grid[1] * multiple
    if tuple(images.shape[1:3]) == size:
        return images
    maps = interpolate(images.permute(0, 3, 1, 2).float(), size=size, mode="bilinear", antialias=True)
    return maps.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()

"""Tokens that are means over copies of the image, shifted by less than a token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maskmill.backbones._derived import Derived

if TYPE_CHECKING:
    import torch

    from maskmill.backbones import Dense
    from maskmill.recipe.feature_set import FeatureSet


def offsets(count: int, stride: int) -> list[int]:
    """Pixels by which the copies are shifted along one axis: evenly over a token, rounded towards its middle.

    They lie symmetrically around 0, so that the mean of the copies' tokens belongs to the middle of the token, and no
    grid has to be resampled.
    """
    return [int(((i + 0.5) / count - 0.5) * stride) for i in range(count)]


def shifted(images: torch.Tensor, dy: int, dx: int) -> torch.Tensor:
    """Images [b, H, W, C] whose pixel (y, x) is (y + dy, x + dx) of the given ones; the last row or column repeats."""
    import torch

    rows = (torch.arange(images.shape[1], device=images.device) + dy).clamp(0, images.shape[1] - 1)
    columns = (torch.arange(images.shape[2], device=images.device) + dx).clamp(0, images.shape[2] - 1)
    return images[:, rows][:, :, columns]


class Shifted(Derived):
    """Means over n x n shifted copies: each token sees its surroundings at n x n places of its grid, one pass each."""

    def __init__(self, feature_set: FeatureSet, source: Dense) -> None:
        super().__init__(feature_set, source)
        assert feature_set.shifts is not None
        steps = offsets(feature_set.shifts, source.stride)
        self.steps = [(dy, dx) for dy in steps for dx in steps]

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Dense`; cls is the mean as well."""
        tokens, cls = self.source.forward(shifted(images, *self.steps[0]))
        for step in self.steps[1:]:
            more, other = self.source.forward(shifted(images, *step))
            tokens, cls = tokens + more, cls + other
        return tokens / len(self.steps), cls / len(self.steps)

"""The backbone `colour`: mean colour and place of the cells of a regular grid. A feature set without a network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maskmill.backbones._channels import RGB
from maskmill.recipe import backbones
from maskmill.recipe.feature_set import FeatureSet

if TYPE_CHECKING:
    import torch

SPEC = backbones.of("colour")


class Colour:
    """Tokens [r, g, b, x, y]; a `maskmill.backbones.Dense` without a network.

    Of pictures of N channels, which begin with the three that are shown, tokens [c1, ..., cN, x, y].

    r, g, b are the means of the cell's pixels in 0..1. x, y are its centre in shares of the image's *longer* side, so
    that a distance means the same in both directions; r, g, b come first so that `tokens[..., :3]` is the small image.

    Attributes:
        set, device, digest: as given. stride, multiple: pixels a cell. depth: 5, or N + 2. heads: None, as there is no
            attention.
        mean, std: of an input normalisation that changes nothing, 0 and 1.
    """

    heads: int | None = None

    def __init__(self, feature_set: FeatureSet, device: torch.device, digest: str = "", channels: int = RGB) -> None:
        import torch

        shape = (1, channels, 1, 1)
        self.mean, self.std = torch.zeros(shape, device=device), torch.ones(shape, device=device)
        self.depth = int(SPEC.depth or 0) + channels - RGB
        self.set, self.device, self.digest = feature_set, device, digest
        self.stride = self.multiple = feature_set.stride or int(SPEC.stride or 1)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """uint8 RGB [b, H, W, 3] -> tokens [b, h, w, 5] and their mean [b, 5], float32; sides are whole cells.

        Of pictures [b, H, W, N] tokens [b, h, w, N + 2].
        """
        import torch

        images, s = images.to(self.device), self.stride
        b, height, width, channels = images.shape
        h, w = height // s, width // s
        colour = images.reshape(b, h, s, w, s, channels).float().mean((2, 4)) / 255  # [b, h, w, channels]
        y, x = (torch.arange(side, device=self.device) + 0.5 for side in (h, w))
        place = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], -1) / max(h, w)  # [h, w, 2], x first
        tokens = torch.cat([colour, place.expand(b, h, w, 2)], -1)
        return tokens, tokens.mean((1, 2))

    def outputs(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        """The same, and no query of a cls token."""
        return *self.forward(images), None

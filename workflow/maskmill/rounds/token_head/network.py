"""The head: 1x1 stem, residual 3x3 blocks, 1x1 classifier. Padding-invariant, so ragged images share a batch."""

from __future__ import annotations

import torch
from torch import nn


class ChannelNorm(nn.Module):
    """Layer normalisation over the channels of each cell: no statistics over space, so padding cannot leak in."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[n, c, h, w] -> the same."""
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ResidualBlock(nn.Module):
    """x + 1x1(gelu(3x3(norm(x)))), with zeros outside the image for the 3x3, as at an image's own border."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.spatial = nn.Conv2d(channels, channels, 3, padding=1)
        self.mix = nn.Conv2d(channels, channels, 1)

    def forward(self, x: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """X [n, c, h, w], valid [n, 1, h, w] (1 inside the image, 0 in the padding)."""
        return x + self.mix(nn.functional.gelu(self.spatial(self.norm(x) * valid)))


class TokenDecoder(nn.Module):
    """Logits at the token grid. The classifier starts at zero: the first loss is log(classes)."""

    def __init__(self, inputs: int, hidden: int, layers: int, classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(inputs, hidden, 1)
        self.blocks = nn.ModuleList(ResidualBlock(hidden) for _ in range(layers))
        self.norm = ChannelNorm(hidden)
        self.classify = nn.Conv2d(hidden, classes, 1)
        nn.init.zeros_(self.classify.weight)
        nn.init.zeros_(self.classify.bias)  # type: ignore[arg-type]

    def forward(self, x: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """X [n, inputs, h, w], valid [n, 1, h, w] -> [n, classes, h, w]."""
        x = nn.functional.gelu(self.stem(x))
        for block in self.blocks:
            x = block(x, valid)
        return self.classify(self.norm(x))

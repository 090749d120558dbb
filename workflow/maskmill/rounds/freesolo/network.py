"""SOLOv2's network: cells of five grids predict an object and a kernel; mask features turn kernels into masks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from maskmill.rounds._layers import enlarge, pointwise
from maskmill.rounds._pyramid import DETAIL, RARE, STRIDE, PyramidNet, Shape, convolution, encoder_of
from maskmill.rounds.freesolo.params import Params

SOURCES = (0, 0, 1, 2, 2)  # the level of the pyramid that each grid is read from
PLACE = 2  # channels of coordinates


@dataclass(frozen=True)
class RawPredictions:
    """What the network predicts for a batch of n images: L cells over all grids, finest first, row by row.

    Attributes:
        features: [n, e, H / 4, W / 4]. logits: [n, L, k + 1], of which the first, of background, is not read: each
            class is told from the rest by itself. kernels: [n, L, e].
    """

    features: torch.Tensor
    logits: torch.Tensor
    kernels: torch.Tensor


class SoloNet(PyramidNet):
    """Encoder, pyramid, mask features, and a head that all grids share."""

    def __init__(self, encoder: Any, shape: Shape, classes: int, params: Params) -> None:
        width = params.width
        super().__init__(encoder, shape, width)
        self.grids = tuple(params.grids)
        self.to_mask = nn.ModuleList(pointwise(width + PLACE * (i == 2), 64) for i in range(3))
        self.mask = nn.Sequential(convolution(64 + DETAIL, width // 2), pointwise(width // 2, params.kernels))
        self.towers = nn.ModuleList(_tower(width + more, width, params.layers) for more in (0, PLACE))
        inputs = [width + more * (params.layers == 0) for more in (0, PLACE)]
        self.classify = nn.Conv2d(inputs[0], classes, 3, padding=1)
        self.kernel = nn.Conv2d(inputs[1], params.kernels, 3, padding=1)
        for layer in (self.classify, self.kernel):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        nn.init.constant_(self.classify.bias, -math.log((1 - RARE) / RARE))  # type: ignore[arg-type]

    def forward(self, x: torch.Tensor) -> RawPredictions:
        """Normalised RGB [n, 3, H, W], sides multiples of `shape.multiple`."""
        levels, detail = self.pyramid(x)
        cells = x.shape[2] // STRIDE, x.shape[3] // STRIDE
        placed = [with_places(level) for level in levels]
        coarse = [to(level) for to, level in zip(self.to_mask, [*levels[:2], placed[2]], strict=True)]
        summed = torch.stack([enlarge(level, cells) for level in coarse]).sum(0)
        features = self.mask(torch.cat([summed, enlarge(detail, cells)], dim=1))
        logits, kernels = [], []
        for source, side in zip(SOURCES, self.grids, strict=True):
            grid = enlarge(placed[source], (side, side))
            logits.append(self.classify(self.towers[0](grid[:, :-PLACE])).flatten(2))
            kernels.append(self.kernel(self.towers[1](grid)).flatten(2))
        return RawPredictions(
            features, torch.cat(logits, dim=2).transpose(1, 2), torch.cat(kernels, dim=2).transpose(1, 2)
        )


def _tower(inputs: int, width: int, layers: int) -> nn.Sequential:
    return nn.Sequential(*(convolution(inputs if i == 0 else width, width) for i in range(layers)))


def with_places(level: torch.Tensor) -> torch.Tensor:
    """A level [n, c, h, w] with x and y in -1..1 as two more channels."""
    n, _, h, w = level.shape
    y, x = (torch.linspace(-1, 1, side, device=level.device, dtype=level.dtype) for side in (h, w))
    places = torch.stack([x.expand(h, w), y[:, None].expand(h, w)])
    return torch.cat([level, places.expand(n, PLACE, h, w)], dim=1)


def masks_of(features: torch.Tensor, kernels: torch.Tensor) -> torch.Tensor:
    """Mask logits [m, h, w] of m kernels [m, e] over mask features [e, h, w] of one image."""
    return (kernels @ features.flatten(1)).view(len(kernels), *features.shape[1:])


def build(architecture: str, classes: int, params: Params) -> SoloNet:
    """The network with random weights; raises ConfigError where the encoder does not fit."""
    return SoloNet(*encoder_of(architecture, params.encoder), classes, params)

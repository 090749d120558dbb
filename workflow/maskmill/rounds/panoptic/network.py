"""The network of `instance` with a semantic head on its pyramid (Kirillov et al., Panoptic FPN, 2019).

Every level is convolved, enlarged to a quarter of the photo's size, and all of them are added; one more convolution
gives the classes. Panoptic FPN enlarges the coarser levels in several steps, with a convolution before each.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from maskmill.rounds._layers import enlarge, pointwise
from maskmill.rounds._pyramid import DETAIL, STRIDE, Shape, convolution, encoder_of
from maskmill.rounds.instance.network import InstanceNet, RawPredictions
from maskmill.rounds.panoptic.params import Params

WIDTH = 128  # channels of the semantic head (Panoptic FPN)


class PanopticNet(InstanceNet):
    """Instances of `classes` classes, background first, and a semantic map of things and `stuff` classes."""

    def __init__(self, encoder: Any, shape: Shape, classes: int, stuff: int, params: Params) -> None:
        super().__init__(encoder, shape, classes, params.width, params.layers)
        self.to_semantic = nn.ModuleList(convolution(params.width, WIDTH) for _ in range(3))
        self.detail_to_semantic = pointwise(DETAIL, WIDTH)
        self.segment = nn.Conv2d(WIDTH, stuff + 1, 1)

    def forward(self, x: torch.Tensor) -> tuple[RawPredictions, torch.Tensor]:  # type: ignore[override]
        """Normalised RGB [n, 3, H, W] -> instances, and logits [n, stuff + 1, H / 4, W / 4]."""
        grids, detail = self.pyramid(x)
        cells = x.shape[2] // STRIDE, x.shape[3] // STRIDE
        levels = [enlarge(to(grid), cells) for to, grid in zip(self.to_semantic, grids, strict=True)]
        joined = torch.stack([*levels, enlarge(self.detail_to_semantic(detail), cells)]).sum(0)
        return self.heads(grids, detail, cells), self.segment(joined)


def build(architecture: str, things: int, stuff: int, params: Params) -> PanopticNet:
    """The network with random weights; raises ConfigError where the encoder does not fit."""
    encoder, shape = encoder_of(architecture, params.encoder)
    return PanopticNet(encoder, shape, things + 1, stuff, params)

"""A network for instances without proposals: every location of a grid predicts a class and a mask.

After CondInst (Tian et al., ECCV 2020): a location's kernel holds the weights of a small network that turns mask
features and the coordinates relative to this location into one mask. No box, no pooling of regions, no compiled
operator.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from maskmill.rounds._layers import enlarge, pointwise
from maskmill.rounds._pyramid import DETAIL, RARE, STRIDE, PyramidNet, Shape, convolution, encoder_of
from maskmill.rounds.instance.params import Params

HIDDEN = 8  # channels of a location's own network
FEATURES = 16  # of the masks
REACH = 8.0  # cells of a level that are the unit of relative coordinates


@dataclass(frozen=True)
class RawPredictions:
    """What the network predicts for a batch of n images: L locations over all grids, finest first, row by row.

    Attributes:
        features: [n, FEATURES, H / 4, W / 4]. logits: [n, L, k + 1]. kernels: [n, L, KERNEL].
        places: [L, 3], centre (y, x) of each location in mask cells, and its unit of relative coordinates.
    """

    features: torch.Tensor
    logits: torch.Tensor
    kernels: torch.Tensor
    places: torch.Tensor


SIZES = ((HIDDEN, FEATURES + 2), (HIDDEN, HIDDEN), (1, HIDDEN))  # of a location's three layers
KERNEL = sum(rows * columns + rows for rows, columns in SIZES)


class InstanceNet(PyramidNet):
    """Encoder, pyramid, mask features, and a head that all grids share."""

    def __init__(self, encoder: Any, shape: Shape, classes: int, width: int, layers: int) -> None:
        super().__init__(encoder, shape, width)
        self.to_mask = nn.ModuleList(pointwise(width, 64) for _ in range(3))
        self.mask = nn.Sequential(convolution(64 + DETAIL, 64), convolution(64, 64), nn.Conv2d(64, FEATURES, 1))
        self.towers = nn.ModuleList(
            nn.Sequential(*(convolution(width, width) for _ in range(layers))) for _ in range(2)
        )
        self.classify, self.kernel = nn.Conv2d(width, classes, 1), nn.Conv2d(width, KERNEL, 1)
        for layer in (self.classify, self.kernel):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        with torch.no_grad():
            self.classify.bias[0] = math.log((1 - RARE) / RARE * max(1, classes - 1))  # type: ignore[index]

    def forward(self, x: torch.Tensor) -> RawPredictions:
        """Normalised RGB [n, 3, H, W], sides multiples of `shape.multiple`."""
        return self.heads(*self.pyramid(x), (x.shape[2] // STRIDE, x.shape[3] // STRIDE))

    def heads(self, grids: list[torch.Tensor], detail: torch.Tensor, cells: tuple[int, int]) -> RawPredictions:
        """Classes, kernels and the masks' features of a pyramid; cells: of the masks, rows and columns."""
        coarse = torch.stack([enlarge(to(grid), cells) for to, grid in zip(self.to_mask, grids, strict=True)]).sum(0)
        features = self.mask(torch.cat([coarse, enlarge(detail, cells)], dim=1))
        logits = torch.cat([self.classify(self.towers[0](grid)).flatten(2) for grid in grids], dim=2)
        kernels = torch.cat([self.kernel(self.towers[1](grid)).flatten(2) for grid in grids], dim=2)
        places = locations_on(
            tuple((grid.shape[2], grid.shape[3]) for grid in grids), self.shape.strides, detail.device
        )
        return RawPredictions(features, logits.transpose(1, 2), kernels.transpose(1, 2), places)


def grid_sizes(height: int, width: int, strides: tuple[int, ...]) -> list[tuple[int, int]]:
    """Rows and columns of each grid over an image of height x width pixels."""
    return [(-(-height // stride), -(-width // stride)) for stride in strides]


def locations(sizes: Sequence[tuple[int, int]], strides: tuple[int, ...]) -> torch.Tensor:
    """`RawPredictions.places` of grids of these sizes, [L, 3] float32."""
    parts = []
    for (rows, columns), stride in zip(sizes, strides, strict=True):
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        cell = stride / STRIDE
        centres = torch.stack([(y.flatten() + 0.5) * cell, (x.flatten() + 0.5) * cell], dim=1)
        parts.append(torch.cat([centres, torch.full((len(centres), 1), REACH * cell)], dim=1))
    return torch.cat(parts).float()


@lru_cache(64)
def locations_on(sizes: tuple[tuple[int, int], ...], strides: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """`locations`, which stay on the device for the next step."""
    with torch.inference_mode(False):  # also where prediction comes before training
        return locations(sizes, strides).to(device)


def masks_of(features: torch.Tensor, kernels: torch.Tensor, places: torch.Tensor, step: int = 1) -> torch.Tensor:
    """Mask logits [m, h, w] of m locations of one image; with a step only at every step-th cell, from its centre on.

    Args:
        features: [FEATURES, H, W]. kernels: [m, KERNEL]. places: [m, 3].
    """
    start = step // 2
    features = features[:, start::step, start::step]
    rows, columns = features.shape[1:]
    y = torch.arange(rows, device=features.device) * step + start + 0.5
    x = torch.arange(columns, device=features.device) * step + start + 0.5
    count = len(kernels)
    down = ((y[None] - places[:, :1]) / places[:, 2:])[:, :, None].expand(count, rows, columns)
    right = ((x[None] - places[:, 1:2]) / places[:, 2:])[:, None, :].expand(count, rows, columns)
    relative = torch.stack([down, right], dim=1).flatten(2)  # [m, 2, rows * columns]
    shared, own = features.flatten(1), _layers(kernels)
    weight, bias = own[0]
    hidden = (weight[..., :FEATURES].reshape(-1, FEATURES) @ shared).view(count, HIDDEN, -1)  # the shared part once
    hidden = torch.relu(hidden + weight[..., FEATURES:] @ relative + bias[..., None])
    weight, bias = own[1]
    hidden = torch.relu(weight @ hidden + bias[..., None])
    weight, bias = own[2]
    return (weight @ hidden + bias[..., None]).view(count, rows, columns)


def _layers(kernels: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Weights [m, out, in] and biases [m, out] of each location's layers."""
    found, start = [], 0
    for rows, columns in SIZES:
        middle, stop = start + rows * columns, start + rows * columns + rows
        found.append((kernels[:, start:middle].view(-1, rows, columns), kernels[:, middle:stop]))
        start = stop
    return found


def build(architecture: str, classes: int, params: Params) -> InstanceNet:
    """The network with random weights; raises ConfigError where the encoder does not fit."""
    return InstanceNet(*encoder_of(architecture, params.encoder), classes, params.width, params.layers)

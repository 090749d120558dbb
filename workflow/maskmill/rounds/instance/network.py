"""A network for instances without proposals: every location of a grid predicts a class and a mask.

After CondInst (Tian et al., ECCV 2020): a location's kernel holds the weights of a small network that turns mask
features and the coordinates relative to this location into one mask. No box, no pooling of regions, no compiled
operator. The encoder is a timm CNN with levels of stride 4, 8, 16 and 32, joined top down, or a plain ViT with a
pyramid made from its last tokens (as in ViTDet, Li et al., ECCV 2022), whose masks get their edges from a small stem
on the pixels.

All norms are over groups of channels of one image, and the encoder's batch norms keep their statistics: an image gives
the same numbers in any batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from maskmill.errors import ConfigError
from maskmill.rounds._layers import enlarge, intermediates, pointwise
from maskmill.rounds.instance.params import Params

STRIDE = 4  # pixels a cell of the masks
GROUPS = 8
HIDDEN = 8  # channels of a location's own network
FEATURES = 16  # of the masks
REACH = 8.0  # cells of a level that are the unit of relative coordinates
PROBE = 64  # pixels a side of the image on which a CNN's levels are seen
CNN_STRIDES = (4, 8, 16, 32)
RARE = 0.01  # share of locations that are taken for objects at the first step


def convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """3x3 convolution, group norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.GroupNorm(GROUPS, outputs), nn.ReLU()
    )


@dataclass(frozen=True)
class Shape:
    """What the network needs to know of an encoder.

    Attributes:
        levels: its feature levels in use: those of stride 4, 8, 16, 32 of a CNN, or two blocks of a ViT.
        channels: of these. patch: pixels a token of a ViT, 0 for a CNN.
    """

    levels: tuple[int, ...]
    channels: tuple[int, ...]
    patch: int = 0

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels a location of each grid, finest first."""
        return (self.patch, 2 * self.patch, 4 * self.patch) if self.patch else (8, 16, 32)

    @property
    def multiple(self) -> int:
        """Image sides are multiples of it."""
        return math.lcm(self.patch, STRIDE) if self.patch else 32


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


class InstanceNet(nn.Module):
    """Encoder, pyramid, mask features, and a head that all grids share."""

    def __init__(self, encoder: Any, shape: Shape, classes: int, width: int, layers: int) -> None:
        super().__init__()
        self.encoder, self.shape = encoder, shape
        if shape.patch:
            self.join = pointwise(sum(shape.channels), width)
            self.scales = nn.ModuleList(convolution(width, width) for _ in range(3))
            self.detail = nn.Sequential(convolution(3, 16, 2), convolution(16, 32, 2))
        else:
            self.lateral = nn.ModuleList(pointwise(channels, width) for channels in shape.channels[1:])
            self.scales = nn.ModuleList(convolution(width, width) for _ in range(3))
            self.detail = pointwise(shape.channels[0], 32)
        self.to_mask = nn.ModuleList(pointwise(width, 64) for _ in range(3))
        self.mask = nn.Sequential(convolution(64 + 32, 64), convolution(64, 64), nn.Conv2d(64, FEATURES, 1))
        self.towers = nn.ModuleList(
            nn.Sequential(*(convolution(width, width) for _ in range(layers))) for _ in range(2)
        )
        self.classify, self.kernel = nn.Conv2d(width, classes, 1), nn.Conv2d(width, KERNEL, 1)
        for layer in (self.classify, self.kernel):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        with torch.no_grad():
            self.classify.bias[0] = math.log((1 - RARE) / RARE * max(1, classes - 1))  # type: ignore[index]

    def train(self, mode: bool = True) -> InstanceNet:
        """The encoder stays in evaluation mode."""
        super().train(mode)
        self.encoder.eval()
        return self

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

    def pyramid(self, x: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Three grids [n, width, h, w], finest first, and the detail for the masks' edges."""
        if self.shape.patch:
            blocks = self.encoder.forward_intermediates(
                x, indices=list(self.shape.levels), norm=True, intermediates_only=True
            )
            grids = [self.join(torch.cat(blocks, dim=1))]
            for _ in range(2):
                grids.append(nn.functional.avg_pool2d(grids[-1], 2, ceil_mode=True, count_include_pad=False))
            detail = self.detail(x)
        else:
            levels = intermediates(self.encoder, x, list(self.shape.levels))
            grids = [lateral(level) for lateral, level in zip(self.lateral, levels[1:], strict=True)]
            for i in (1, 0):
                grids[i] = grids[i] + enlarge(grids[i + 1], (grids[i].shape[2], grids[i].shape[3]))
            detail = self.detail(levels[0])
        return [scale(grid) for scale, grid in zip(self.scales, grids, strict=True)], detail


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
    return InstanceNet(*encoder_of(architecture, params), classes, params.width, params.layers)


def encoder_of(architecture: str, params: Params) -> tuple[nn.Module, Shape]:
    """An encoder with random weights, and its levels; raises ConfigError where it does not fit."""
    from maskmill.backbones.network import import_timm

    timm = import_timm()
    said = f"rounds.encoder: {params.encoder!r} is {architecture}"
    try:
        try:
            encoder = timm.create_model(architecture, pretrained=False, num_classes=0, dynamic_img_size=True)
        except TypeError:
            encoder = timm.create_model(architecture, pretrained=False, num_classes=0)
        shape = _shape(encoder.eval())
    except (TypeError, AttributeError, AssertionError, NotImplementedError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{said}, which gives no feature levels for any image size ({reason}); "
                          "name a feature set with a CNN or a plain ViT") from None  # fmt: skip
    if shape is None:
        raise ConfigError(f"{said}, which is no plain ViT and lacks a level of stride 4, 8, 16 or 32; "
                          "name a feature set with another encoder")  # fmt: skip
    return encoder, shape


def _shape(encoder: Any) -> Shape | None:
    """Levels of an encoder that the network uses; None where it has them not."""
    patches = getattr(getattr(encoder, "patch_embed", None), "patch_size", None)
    if hasattr(encoder, "blocks") and patches is not None and getattr(encoder, "dynamic_img_size", False):
        depth = len(encoder.blocks)
        return Shape((max(0, depth * 2 // 3 - 1), depth - 1), (int(encoder.embed_dim),) * 2, int(patches[0]))
    seen = [tuple(level.shape) for level in intermediates(encoder, torch.zeros(1, 3, PROBE, PROBE))]
    last = {PROBE // shape[2]: i for i, shape in enumerate(seen) if shape[2]}
    if not set(CNN_STRIDES) <= set(last):
        return None
    levels = tuple(last[stride] for stride in CNN_STRIDES)
    return Shape(levels, tuple(seen[i][1] for i in levels))

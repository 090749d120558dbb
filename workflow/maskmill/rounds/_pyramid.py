"""An encoder and the pyramid on it, for networks that find instances on grids of locations.

The encoder is a timm CNN with levels of stride 4, 8, 16 and 32, joined top down, or a plain ViT with a pyramid made
from its last tokens (as in ViTDet, Li et al., ECCV 2022), whose masks get their edges from a small stem on the pixels.
All norms are over groups of channels of one image, and the encoder's batch norms keep their statistics: an image gives
the same numbers in any batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from maskmill.errors import ConfigError
from maskmill.rounds._layers import enlarge, intermediates, pointwise

STRIDE = 4  # pixels a cell of the masks
GROUPS = 8
DETAIL = 32  # channels of the edges
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


class PyramidNet(nn.Module):
    """Encoder and pyramid; what a network adds of its own comes after them."""

    def __init__(self, encoder: Any, shape: Shape, width: int) -> None:
        super().__init__()
        self.encoder, self.shape = encoder, shape
        if shape.patch:
            self.join = pointwise(sum(shape.channels), width)
            self.scales = nn.ModuleList(convolution(width, width) for _ in range(3))
            self.detail = nn.Sequential(convolution(3, 16, 2), convolution(16, DETAIL, 2))
        else:
            self.lateral = nn.ModuleList(pointwise(channels, width) for channels in shape.channels[1:])
            self.scales = nn.ModuleList(convolution(width, width) for _ in range(3))
            self.detail = pointwise(shape.channels[0], DETAIL)

    def train(self, mode: bool = True) -> PyramidNet:
        """The encoder stays in evaluation mode."""
        super().train(mode)
        self.encoder.eval()
        return self

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


def encoder_of(architecture: str, name: str) -> tuple[Any, Shape]:
    """A timm encoder with random weights, and its levels; raises ConfigError where it does not fit.

    Args:
        name: of the feature set that names it, for the message.
    """
    from maskmill.backbones.network import import_timm

    timm = import_timm()
    said = f"rounds.encoder: {name!r} is {architecture}"
    try:
        try:
            encoder = timm.create_model(architecture, pretrained=False, num_classes=0, dynamic_img_size=True)
        except TypeError:
            encoder = timm.create_model(architecture, pretrained=False, num_classes=0)
        shape = shape_of(encoder.eval())
    except (TypeError, AttributeError, AssertionError, NotImplementedError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{said}, which gives no feature levels for any image size ({reason}); "
                          "name a feature set with a CNN or a plain ViT") from None  # fmt: skip
    if shape is None:
        raise ConfigError(f"{said}, which is no plain ViT and lacks a level of stride 4, 8, 16 or 32; "
                          "name a feature set with another encoder")  # fmt: skip
    return encoder, shape


def shape_of(encoder: Any) -> Shape | None:
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

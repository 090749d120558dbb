"""Layers that the networks on photos share, and what they read of a timm encoder."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import nn

from maskmill.images.interpolate import matrix

GROUPS = 16  # of channels, each of which a `pointwise` layer normalises by itself


def pointwise(inputs: int, outputs: int) -> nn.Sequential:
    """1x1 convolution, group norm, ReLU."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.GroupNorm(GROUPS, outputs), nn.ReLU())


def intermediates(encoder: Any, x: torch.Tensor, levels: list[int] | None = None) -> list[torch.Tensor]:
    """Feature levels [n, c, h, w] of a timm CNN; all of them without `levels`."""
    return list(encoder.forward_intermediates(x, indices=levels, intermediates_only=True, stop_early=True))


def enlarge(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Bilinear, by two matrix products: on CUDA torch's own has a gradient whose sums change from run to run."""
    rows, columns = (_matrix(x.shape[axis], size[axis - 2], x.device, x.dtype) for axis in (2, 3))
    return rows @ (x @ columns.T)


@lru_cache(256)
def _matrix(source: int, target: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Matrix [target, source] of linear interpolation; it stays on the device, for the next step."""
    with torch.inference_mode(False):  # also where prediction comes before training
        return torch.from_numpy(matrix(source, target)).to(device, dtype)


def freeze(encoder: Any, unfrozen: int) -> None:
    """Let the parameters of the last `unfrozen` feature levels learn, and no other."""
    names = [name for name, _ in encoder.named_parameters()]
    ends: list[int] = []  # of each level, the place of its last parameter; parameters follow the order of the network
    for info in encoder.feature_info:
        own = [i for i, name in enumerate(names) if name.startswith(f"{info['module']}.")]
        ends.append(max(own, default=ends[-1] if ends else -1))
    first = ends[-unfrozen - 1] if unfrozen < len(ends) else -1
    for i, (_, parameter) in enumerate(encoder.named_parameters()):
        parameter.requires_grad_(unfrozen > 0 and first < i <= ends[-1])

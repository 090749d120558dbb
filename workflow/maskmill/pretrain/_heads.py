"""Projection heads: what lies between a backbone and a loss, and is thrown away after the training."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import nn

from maskmill.device import float32


def unit(x: torch.Tensor, dim: int = -1) -> torch.Tensor:
    """Vectors along `dim` scaled to unit length."""
    return nn.functional.normalize(x, dim=dim, eps=1e-12)


def mlp(
    widths: Sequence[int], activation: type[nn.Module] = nn.GELU, norm: bool = False, std: float | None = None
) -> nn.Sequential:
    """Linear layers between widths, with an activation (and a batch norm before it) after all but the last.

    Args:
        std: of the normal that the weights are drawn from; biases are then zero. None: torch's own.
    """
    layers: list[nn.Module] = []
    for i, (before, after) in enumerate(itertools.pairwise(widths)):
        layers.append(nn.Linear(before, after))
        if i < len(widths) - 2:
            layers += [BatchStatistics(after)] if norm else []
            layers.append(activation())
    for layer in layers:
        if std is not None and isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)


class BatchStatistics(nn.BatchNorm1d):
    """A batch norm of vectors [n, d] that always uses the statistics of its micro-batch and keeps none."""

    def __init__(self, width: int, affine: bool = True) -> None:
        super().__init__(width, affine=affine, track_running_stats=False)


class UnitRows(nn.Module):
    """A linear map without a bias whose rows have unit length, so that scores of unit vectors are cosines."""

    def __init__(self, width: int, rows: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, width))
        nn.init.trunc_normal_(self.weight, std=0.02)

    def forward(self, x: torch.Tensor, frozen: bool = False) -> torch.Tensor:
        """[n, width] -> [n, rows]; frozen: no gradient reaches the rows."""
        return x @ unit(self.weight.detach() if frozen else self.weight).T


class ProjectionHead(nn.Module):
    """DINO's head: three linear layers to a bottleneck of unit length, then a map with rows of unit length.

    The published last layer has a weight norm whose gain is fixed at one, which is this.
    """

    def __init__(self, depth: int, rows: int, hidden: int = 2048, bottleneck: int = 256, norm: bool = False) -> None:
        super().__init__()
        self.mlp = mlp([depth, hidden, hidden, bottleneck], norm=norm, std=0.02)
        self.last = UnitRows(bottleneck, rows)

    def forward(self, x: torch.Tensor, frozen: bool = False) -> torch.Tensor:
        """[n, depth] -> scores [n, rows]; frozen: no gradient reaches the last layer."""
        hidden = self.mlp(x).float()
        with float32(hidden.device):  # divided by a temperature of 0.04, cosines in bfloat16 would be off by a tenth
            return torch.as_tensor(self.last(unit(hidden), frozen))

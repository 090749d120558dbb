"""What stands between a network's dense features and an embedding of every token: pyramids of two papers, or nothing.

All of them keep the grid. They are trained with the network and thrown away with the embedding: the features of the
network itself are the result.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import nn

from maskmill.images.interpolate import matrix

Kind = Literal["none", "aspp", "psp"]
RATES = (12, 24, 36)
BINS = (1, 2, 3, 6)


def decoder(kind: Kind, depth: int, width: int, dropout: float = 0.5) -> Decoder:
    """A decoder by its name: `none` hands the features on.

    Args:
        depth: channels of the features. width: channels of `aspp` and `psp`.
        dropout: share of the values of `aspp`'s pyramid that are dropped.
    """
    if kind == "aspp":
        return Aspp(depth, width, dropout)
    return Psp(depth, width) if kind == "psp" else Decoder(depth)


class Decoder(nn.Module):
    """The features as they are. `width`: channels of the result."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, x: torch.Tensor, draws: torch.Generator | None = None) -> torch.Tensor:
        """Features [n, depth, h, w] -> [n, width, h, w].

        Args:
            draws: generator of what is dropped, on any device; None: nothing is dropped.
        """
        return x


class Aspp(Decoder):
    """The head of DeepLabv3 (Chen et al., 2017, section 3.3) for an output stride of 8: rates 12, 24, 36.

    A 1x1 convolution, three dilated ones and the mean of the picture side by side, a projection with dropout, and a
    3x3 convolution.
    """

    def __init__(self, depth: int, width: int, dropout: float) -> None:
        super().__init__(width)
        self.branches = nn.ModuleList([unit(depth, width), *(unit(depth, width, 3, rate) for rate in RATES)])
        self.pooled = unit(depth, width)
        self.project = unit((len(RATES) + 2) * width, width)
        self.mix = unit(width, width, 3)
        self.dropout = dropout

    def forward(self, x: torch.Tensor, draws: torch.Generator | None = None) -> torch.Tensor:
        """See `Decoder.forward`."""
        pooled = self.pooled(x.mean((2, 3), keepdim=True)).expand(-1, -1, *x.shape[2:])
        y = self.project(torch.cat([*(branch(x) for branch in self.branches), pooled], 1))
        if draws is not None and self.dropout:
            kept = torch.rand(y.shape, generator=draws, device=draws.device) >= self.dropout
            y = y * kept.to(y.device, y.dtype) / (1 - self.dropout)
        return self.mix(y)  # type: ignore[no-any-return]


class Psp(Decoder):
    """The pyramid pooling module of PSPNet (Zhao et al., 2017, section 3.2): means of 1, 2, 3 and 6 parts a side."""

    def __init__(self, depth: int, width: int) -> None:
        super().__init__(width)
        self.branches = nn.ModuleList([unit(depth, width) for _ in BINS])
        self.mix = unit(depth + len(BINS) * width, width, 3)

    def forward(self, x: torch.Tensor, draws: torch.Generator | None = None) -> torch.Tensor:
        """See `Decoder.forward`."""
        pooled = [branch(bin_means(x, bins)) for branch, bins in zip(self.branches, BINS, strict=True)]
        parts = [at_size(each, x.shape[2], x.shape[3]) for each in pooled]
        return self.mix(torch.cat([*parts, x], 1))  # type: ignore[no-any-return]


def unit(inputs: int, outputs: int, kernel: int = 1, dilation: int = 1) -> nn.Sequential:
    """Convolution, batch norm, ReLU; the size stays."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=dilation * (kernel // 2), dilation=dilation, bias=False),
        nn.BatchNorm2d(outputs, track_running_stats=False),  # no state that threads would change
        nn.ReLU(),
    )


def at_size(maps: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Maps [n, c, h, w] at another size [n, c, height, width], bilinear between the centres of the cells.

    By products with matrices: gradients of torch's interpolation differ between runs on CUDA.
    """
    rows, columns = matrix(maps.shape[2], height), matrix(maps.shape[3], width)
    return products(maps, rows, columns)


def bin_means(maps: torch.Tensor, bins: int) -> torch.Tensor:
    """Means [n, c, bins, bins] over parts of maps [n, c, h, w]; parts share cells that a border cuts, as in torch."""
    return products(maps, _bins(maps.shape[2], bins), _bins(maps.shape[3], bins))


def products(maps: torch.Tensor, rows: np.ndarray, columns: np.ndarray) -> torch.Tensor:
    """Maps [n, c, h, w] times matrices of their rows [H, h] and columns [W, w]: [n, c, H, W]."""
    down, across = (torch.from_numpy(each).to(maps.device, maps.dtype) for each in (rows, columns))
    return down @ maps @ across.T


def _bins(length: int, bins: int) -> np.ndarray:
    """Matrix [bins, length] float32 of the means over the parts of a line."""
    weights = np.zeros((bins, length), np.float32)
    for i in range(bins):
        start, stop = i * length // bins, -(-(i + 1) * length // bins)
        weights[i, start:stop] = 1 / (stop - start)
    return weights

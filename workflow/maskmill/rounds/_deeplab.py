"""DeepLabv3+ (Chen et al., ECCV 2018) on any timm CNN, in plain torch.

Convolutions are separable, as the paper's. Two departures make a result independent of how a batch is cut into pieces:
the decoder normalises over groups of channels instead of over the batch, and the encoder's batch norms keep the
statistics that they came with, so neither needs the other images of a step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from maskmill.images.interpolate import matrix

LOW_STRIDE = 4  # of the level that joins the decoder, and of the logits
LOW_CHANNELS = 48
GROUPS = 16


def separable(inputs: int, outputs: int, dilation: int = 1) -> nn.Sequential:
    """3x3 convolution of each channel, then 1x1 over channels; group norm and ReLU after both."""
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, 3, padding=dilation, dilation=dilation, groups=inputs, bias=False),
        *pointwise(inputs, outputs),
    )


def pointwise(inputs: int, outputs: int) -> nn.Sequential:
    """1x1 convolution, group norm, ReLU."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.GroupNorm(GROUPS, outputs), nn.ReLU())


class Pyramid(nn.Module):
    """Atrous spatial pyramid pooling: 1x1, three dilated 3x3 and the image's mean, side by side, then 1x1."""

    def __init__(self, inputs: int, width: int, rates: tuple[int, ...]) -> None:
        super().__init__()
        self.branches = nn.ModuleList([pointwise(inputs, width), *(separable(inputs, width, rate) for rate in rates)])
        self.mean = pointwise(inputs, width)
        self.project = pointwise((len(rates) + 2) * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[n, c, h, w] -> [n, width, h, w]."""
        mean = self.mean(x.mean((2, 3), keepdim=True)).expand(-1, -1, *x.shape[2:])
        return self.project(torch.cat([*(branch(x) for branch in self.branches), mean], dim=1))


class DeepLab(nn.Module):
    """Encoder, pyramid, decoder. The classifier starts at zero: the first loss is log(classes).

    Args:
        encoder: a timm CNN without its classifier. levels: (low, high) of its feature levels, channels: of these two.
        width: channels of pyramid and decoder. rates: dilations of the pyramid.
    """

    def __init__(
        self,
        encoder: Any,
        levels: tuple[int, int],
        channels: tuple[int, int],
        classes: int,
        width: int,
        rates: tuple[int, ...],
    ) -> None:
        super().__init__()
        self.encoder, self.levels = encoder, list(levels)
        self.pyramid = Pyramid(channels[1], width, rates)
        self.low = pointwise(channels[0], LOW_CHANNELS)
        self.decode = nn.Sequential(separable(width + LOW_CHANNELS, width), separable(width, width))
        self.classify = nn.Conv2d(width, classes, 1)
        nn.init.zeros_(self.classify.weight)
        nn.init.zeros_(self.classify.bias)  # type: ignore[arg-type]

    def train(self, mode: bool = True) -> DeepLab:
        """The encoder stays in evaluation mode: its batch norms keep their statistics."""
        super().train(mode)
        self.encoder.eval()
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalised RGB [n, 3, H, W] -> logits [n, classes, H / 4, W / 4]."""
        low, high = intermediates(self.encoder, x, self.levels)
        y = enlarge(self.pyramid(high), (low.shape[2], low.shape[3]))
        return self.classify(self.decode(torch.cat([y, self.low(low)], dim=1)))


def intermediates(encoder: Any, x: torch.Tensor, levels: list[int] | None = None) -> list[torch.Tensor]:
    """Feature levels [n, c, h, w] of a timm CNN; all of them without `levels`."""
    return list(encoder.forward_intermediates(x, indices=levels, intermediates_only=True, stop_early=True))


def enlarge(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Bilinear, by two matrix products: on CUDA torch's own has a gradient whose sums change from run to run."""
    rows, columns = (torch.from_numpy(matrix(x.shape[axis], size[axis - 2])).to(x.device, x.dtype) for axis in (2, 3))
    return rows @ (x @ columns.T)


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

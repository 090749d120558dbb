"""DeepLabv3+ (Chen et al., ECCV 2018) on any timm CNN, in plain torch.

Convolutions are separable, as the paper's. Two departures make a result independent of how a batch is cut into pieces:
the decoder normalises over groups of channels instead of over the batch, and the encoder's batch norms keep the
statistics that they came with, so neither needs the other images of a step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from maskmill.errors import ConfigError
from maskmill.rounds._layers import enlarge, intermediates, pointwise
from maskmill.rounds.deeplabv3plus.params import Params

LOW_STRIDE = 4  # of the level that joins the decoder, and of the logits
LOW_CHANNELS = 48
RATES = {8: (12, 24, 36), 16: (6, 12, 18), 32: (3, 6, 9)}  # dilations of the pyramid by output stride
PROBE = 64  # pixels a side of the image on which an encoder's levels are seen


def separable(inputs: int, outputs: int, dilation: int = 1) -> nn.Sequential:
    """3x3 convolution of each channel, then 1x1 over channels; group norm and ReLU after both."""
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, 3, padding=dilation, dilation=dilation, groups=inputs, bias=False),
        *pointwise(inputs, outputs),
    )


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


def build(architecture: str, classes: int, params: Params) -> DeepLab:
    """The network with random weights; raises ConfigError where the architecture does not fit."""
    from maskmill.backbones.network import import_timm

    said = f"rounds.encoder: {params.encoder!r} is {architecture}"
    try:
        encoder = import_timm().create_model(
            architecture, pretrained=False, num_classes=0, output_stride=params.output_stride
        )
        shapes = [tuple(level.shape) for level in intermediates(encoder.eval(), torch.zeros(1, 3, PROBE, PROBE))]
    except (TypeError, AttributeError, AssertionError, NotImplementedError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{said}, which gives no levels of stride {params.output_stride} ({reason}); "
                          "name a feature set with a CNN") from None  # fmt: skip
    low = [i for i, shape in enumerate(shapes) if shape[2] == PROBE // LOW_STRIDE]
    if not low or shapes[-1][2] != PROBE // params.output_stride:
        strides = ", ".join(str(PROBE // shape[2]) for shape in shapes)
        raise ConfigError(f"{said} with levels of stride {strides}; stride 4 and a last one of {params.output_stride} "
                          "are needed: set rounds.output_stride, or name another CNN")  # fmt: skip
    levels = low[-1], len(shapes) - 1
    channels = shapes[levels[0]][1], shapes[levels[1]][1]
    return DeepLab(encoder, levels, channels, classes, params.width, RATES[params.output_stride])

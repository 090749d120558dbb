"""Tokens on a finer grid, guided by the photo: joint bilateral upsampling.

Kopf, Cohen, Lischinski, Uyttendaele, "Joint bilateral upsampling", SIGGRAPH 2007, section 3: a fine cell p takes the
mean of the tokens q within two tokens of it, weighted by exp(-|p - q|^2 / 2 s^2) for the places, in tokens, and
exp(-|I_p - I_q|^2 / 2 r^2) for the colours. The colour of a fine cell is the mean of its pixels, and that of a token
the mean of the pixels under it, so that in a photo without edges places alone decide.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from maskmill.backbones._derived import Derived

if TYPE_CHECKING:
    import torch

    from maskmill.backbones import Dense
    from maskmill.recipe.feature_set import FeatureSet, Upsample

REACH = 2  # tokens around the one that a cell lies in, along each axis: the paper's window of 5 x 5


class Upsampled(Derived):
    """The tokens of another backbone on a grid that is finer by a factor along each side; cls is as it was."""

    def __init__(self, feature_set: FeatureSet, source: Dense) -> None:
        super().__init__(feature_set, source)
        assert feature_set.upsample is not None
        self.asked = feature_set.upsample
        self.stride = max(1, round(source.stride / self.asked.factor))

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Dense`."""
        tokens, cls = self.source.forward(images)
        return upsampled(tokens, images.to(tokens.device), self.asked), cls


def upsampled(tokens: torch.Tensor, images: torch.Tensor, asked: Upsample) -> torch.Tensor:
    """Tokens [b, h, w, d] and the images uint8 [b, H, W, C] that they are of -> [b, factor * h, factor * w, d].

    Colours are in 0..1; of pictures of other than three channels their squared distance counts as that of three.
    """
    import torch
    from torch.nn.functional import interpolate

    (h, w), f = tokens.shape[1:3], asked.factor
    guide = images.permute(0, 3, 1, 2).float() / 255
    fine = interpolate(guide, size=(h * f, w * f), mode="area").permute(0, 2, 3, 1)  # [b, fh, fw, C]
    coarse = interpolate(guide, size=(h, w), mode="area").permute(0, 2, 3, 1)
    near = list(_neighbours(h, w, f, tokens.device))
    logs = []
    for rows, columns, far in near:
        apart = (fine - coarse[:, rows][:, :, columns]).square().sum(-1) * (3 / fine.shape[3])
        logs.append(-far / (2 * asked.space**2) - apart / (2 * asked.colour**2))
    shares = torch.stack(logs, -1).softmax(-1)[
        ..., None, :
    ]  # [b, fh, fw, 1, 25]; of the nearest colours, if all are far
    out = torch.zeros(*fine.shape[:3], tokens.shape[3], device=tokens.device)
    for i, (rows, columns, _) in enumerate(near):
        out += shares[..., i] * tokens[:, rows][:, :, columns]
    return out


def _neighbours(
    h: int, w: int, factor: int, device: torch.device
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """For each place in the window: rows [fh] and columns [fw] of the token there, and the squared distances
    [fh, fw] in tokens from each fine cell's centre to that of the token; infinite outside the grid.
    """
    import torch

    def along(count: int, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        cell = torch.arange(count * factor, device=device)
        near = cell // factor + step
        away = (near - ((cell + 0.5) / factor - 0.5)).square()
        return near.clamp(0, count - 1), torch.where((near < 0) | (near >= count), float("inf"), away)

    steps = range(-REACH, REACH + 1)
    down, across = [along(h, step) for step in steps], [along(w, step) for step in steps]
    for rows, dy in down:
        for columns, dx in across:
            yield rows, columns, dy[:, None] + dx[None]

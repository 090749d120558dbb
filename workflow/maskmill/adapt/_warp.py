"""Applies the views that `_views` draws: changes channels or light, crops, mirrors, resizes, and undoes a crop.

Interpolation is bilinear between the centres of cells. It is computed as two small matrix products a map, whose results
and gradients are deterministic on every device.
"""

from __future__ import annotations

from functools import lru_cache

import torch

GREY = (0.299, 0.587, 0.114)  # shares of red, green and blue in the luminance
YIQ = ((0.299, 0.587, 0.114), (0.596, -0.274, -0.322), (0.211, -0.523, 0.312))


def change(x: torch.Tensor, changes: torch.Tensor) -> torch.Tensor:
    """What `_views.draw` says for one view: of tokens [n, 2, d], of photos [n, 5]."""
    return relight(x, changes) if changes.ndim == 2 else recolour(x, changes)


def relight(x: torch.Tensor, changes: torch.Tensor) -> torch.Tensor:
    """Photos [n, 3, H, W] of 0..255: brightness, contrast, saturation, hue and blur [n, 5], in this order.

    Factors as torchvision's: of all values, of the distance from the mean luminance of the view, from each pixel's.
    The hue turns by a share of the circle, in YIQ. Values stay within 0..255.
    """
    bright, contrast, saturation, turn, sigma = (value[:, None, None, None] for value in changes.unbind(1))
    x = (x * bright).clamp(0, 255)
    x = (_grey(x).mean((2, 3), keepdim=True) * (1 - contrast) + x * contrast).clamp(0, 255)
    x = (_grey(x) * (1 - saturation) + x * saturation).clamp(0, 255)
    x = torch.einsum("nij,njhw->nihw", _turned(turn[:, 0, 0, 0]), x).clamp(0, 255)
    down, right = _spread(x.shape[2], sigma[:, :, 0, 0]), _spread(x.shape[3], sigma[:, :, 0, 0])
    return down[:, None] @ x @ right[:, None].transpose(2, 3)


@lru_cache
def _constants(device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """GREY, YIQ and its inverse on the device, where they stay: making them anew at every step, the host would wait."""
    with torch.inference_mode(False):
        to = torch.tensor(YIQ)
        return torch.tensor(GREY).to(device), to.to(device), torch.linalg.inv(to).to(device)


def _grey(x: torch.Tensor) -> torch.Tensor:
    return (x * _constants(x.device)[0][:, None, None]).sum(1, keepdim=True)


def _turned(turn: torch.Tensor) -> torch.Tensor:
    """Matrices [n, 3, 3] that turn the hue by shares of the circle [n]."""
    _, to, back = _constants(turn.device)
    angle = 2 * torch.pi * turn
    rotation = torch.eye(3, device=turn.device).repeat(len(turn), 1, 1)
    rotation[:, 1, 1] = rotation[:, 2, 2] = angle.cos()
    rotation[:, 1, 2], rotation[:, 2, 1] = -angle.sin(), angle.sin()
    return back @ rotation @ to


def _spread(cells: int, sigma: torch.Tensor) -> torch.Tensor:
    """Gaussian weights [n, cells, cells] of deviations [n, 1], 0 for none; rows sum to 1, at the border too."""
    at = torch.arange(cells, device=sigma.device, dtype=torch.float32)
    weights = torch.exp(-0.5 * ((at[:, None] - at) / sigma.clamp_min(1e-3)[:, :, None]).square())
    return weights / weights.sum(2, keepdim=True)


def recolour(x: torch.Tensor, gains: torch.Tensor) -> torch.Tensor:
    """Maps [n, d, h, w] with every channel scaled and shifted by gains [n, 2, d]; before or after a resize alike."""
    return x * gains[:, 0, :, None, None] + gains[:, 1, :, None, None]


def crop(maps: torch.Tensor, boxes: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """The part of maps [n, c, h, w] in boxes [n, 4], mirrored where asked, as [n, c, *size]."""
    rows, columns = _within(size[0], maps), _within(size[1], maps)
    side = boxes[:, 2:3]
    across = torch.where(boxes[:, 3:4] > 0, 1 - columns, columns)
    return _lay(maps, boxes[:, :1] + side * rows, boxes[:, 1:2] + side * across)


def lay_back(maps: torch.Tensor, boxes: torch.Tensor, size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """The inverse of `crop`: maps of crops [n, c, h, w] in the frame of the whole [n, c, *size].

    Returns:
        the maps, and [n, 1, *size] 1.0 where a cell's centre lies in the crop, 0.0 elsewhere (values mean nothing).
    """
    side = boxes[:, 2:3]
    rows = (_within(size[0], maps) - boxes[:, :1]) / side
    columns = (_within(size[1], maps) - boxes[:, 1:2]) / side
    inside = [((at >= 0) & (at <= 1)).to(maps.dtype) for at in (rows, columns)]
    columns = torch.where(boxes[:, 3:4] > 0, 1 - columns, columns)
    return _lay(maps, rows, columns), (inside[0][:, :, None] * inside[1][:, None, :])[:, None]


def resize(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Maps [n, c, h, w] -> [n, c, *size]."""
    if maps.shape[2:] == size:
        return maps
    return _lay(maps, _within(size[0], maps), _within(size[1], maps))


def _within(cells: int, like: torch.Tensor) -> torch.Tensor:
    """Centres of cells in shares of the side [1, cells]."""
    return ((torch.arange(cells, device=like.device, dtype=torch.float32) + 0.5) / cells)[None]


def _lay(maps: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Values of maps [n, c, h, w] at rows [n, H] x columns [n, W], shares of the sides; edge cells extend."""
    n, c, h, w = maps.shape
    down, right = _weights(rows, h).to(maps.dtype), _weights(columns, w).to(maps.dtype)
    last = maps.permute(0, 2, 3, 1).reshape(n, h, w * c)  # channels last: two products of wide matrices
    lower = torch.matmul(down, last).reshape(n, -1, w, c)  # [n, H, w, c]
    return torch.matmul(right[:, None], lower).permute(0, 3, 1, 2)


def _weights(at: torch.Tensor, cells: int) -> torch.Tensor:
    """Weights [n, m, cells] of linear interpolation at shares [n, m] of a side."""
    place = (at * cells - 0.5).clamp(0, cells - 1)
    return (1 - (place[:, :, None] - torch.arange(cells, device=at.device, dtype=at.dtype)).abs()).clamp_min(0)

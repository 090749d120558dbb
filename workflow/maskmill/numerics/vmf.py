"""k-means of directions within one picture, started from a grid of squares: the segments of SegSort and HSG.

Hwang et al., "SegSort" (ICCV 2019), section 3.1: the mixture of von Mises-Fisher distributions of one concentration,
by hard assignment. Pixels carry their place beside their embedding, so that segments stay together.
"""

from __future__ import annotations

import torch
from torch.nn import functional


def grid_labels(height: int, width: int, parts: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """Squares of a grid of parts x parts over a picture, numbered column by column: int64 [height, width]."""
    rows, columns = (torch.linspace(0, parts - 1, side, device=device).round().long() for side in (height, width))
    return rows[:, None] + (rows.max() + 1) * columns


def located(pixels: torch.Tensor) -> torch.Tensor:
    """Pixels [h, w, d] of unit length and their place (-0.5..0.5 each way), scaled to unit length [h * w, d + 2]."""
    h, w, d = pixels.shape
    y, x = (torch.linspace(0, 1, side, device=pixels.device, dtype=pixels.dtype) - 0.5 for side in (h, w))
    place = torch.stack(torch.meshgrid(y, x, indexing="ij"), 2)
    return functional.normalize(torch.cat([pixels, place], 2).view(h * w, d + 2), dim=1)


def segments(pixels: torch.Tensor, parts: int, iterations: int) -> torch.Tensor:
    """Segments 0, 1, ... of pixels [h, w, d] of unit length: int64 [h, w]. A segment that loses its pixels is gone."""
    h, w = pixels.shape[:2]
    rows, labels = located(pixels), grid_labels(h, w, parts, pixels.device).flatten()
    labels = torch.unique(labels, return_inverse=True)[1]
    count = int(labels.max()) + 1
    for _ in range(iterations):
        chosen = functional.one_hot(labels, count).to(
            rows.dtype
        )  # a product is the same in every run, index_add on CUDA is not
        labels = (rows @ functional.normalize(chosen.T @ rows, dim=1).T).argmax(1)
    return torch.unique(labels, return_inverse=True)[1].view(h, w)

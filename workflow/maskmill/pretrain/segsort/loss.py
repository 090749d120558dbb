"""Segments and the loss of SegSort: every pixel against the mean directions of all segments of the batch.

Prototypes carry gradient, as in the published code. A micro-batch sees those of the others as numbers only, so what
all pixels of the batch ask of each prototype is computed once (`pulls`) and is given to the micro-batch that the
prototype belongs to: the sum of its gradients is that of the whole batch, however it is divided.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional


def numbered(segments: torch.Tensor) -> torch.Tensor:
    """Segment ids [n, h, w] -> 0, 1, ..., another number for each id of each photo: int64 [n * h * w]."""
    photo = torch.arange(len(segments), device=segments.device)[:, None, None]
    return torch.unique(photo * (segments.max() + 1) + segments, return_inverse=True)[1].flatten()


def mean_directions(pixels: torch.Tensor, places: torch.Tensor, count: int) -> torch.Tensor:
    """Prototypes [count, d]: the direction of the sum of each segment's pixels [p, d] of unit length."""
    # A product: index_add on CUDA gives other bits in every run.
    sums = functional.one_hot(places, count).to(pixels.dtype).T @ pixels
    return functional.normalize(sums, dim=1)


def likelihood(pixels: torch.Tensor, places: torch.Tensor, prototypes: torch.Tensor, kappa: float) -> torch.Tensor:
    """Sum over pixels [p, d] of -log of the share of their own prototype (equation 5 of the paper).

    Args:
        places: row of the own prototype [p]. prototypes: [segments, d] of the whole batch. kappa: concentration.
    """
    return functional.cross_entropy(kappa * pixels @ prototypes.T, places, reduction="sum")


def pulls(
    pixels: Sequence[torch.Tensor], places: Sequence[torch.Tensor], prototypes: torch.Tensor, kappa: float
) -> torch.Tensor:
    """The gradient of `likelihood` of all micro-batches by the prototypes [segments, d]; no graph is needed.

    Args:
        pixels, places: of each micro-batch, see `likelihood`.
    """
    total = torch.zeros_like(prototypes)
    for rows, own in zip(pixels, places, strict=True):
        share = (kappa * rows @ prototypes.T).softmax(1)  # [p, segments]
        total += kappa * (share - functional.one_hot(own, len(prototypes))).T @ rows
    return total

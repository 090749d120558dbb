"""EAGLE's cue: segments of an image from eigenvectors of a graph of its codes and colours (EiCue).

Kim, Han, Ju and Hwang, EAGLE: eigen aggregation learning for object-centric unsupervised semantic segmentation (CVPR
2024), section 3.2, as in its code.
"""

from __future__ import annotations

import torch
from torch import nn

from maskmill.adapt._modules import Prototypes

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of the channels of ImageNet, in 0..1


def colour_affinity(colours: torch.Tensor, deviation: float) -> torch.Tensor:
    """exp(-|a - b|^2 / (2 deviation^2)) of all pairs of colours [n, 3, h, w] of 0..255: [n, t, t].

    Colours are counted in deviations of their channel over ImageNet.
    """
    mean, scale = (torch.tensor(v, device=colours.device)[:, None, None] for v in (MEAN, DEVIATION))
    rows = ((colours / 255 - mean) / scale).flatten(2).mT
    squared = (rows[:, :, None] - rows[:, None]).square().sum(3)
    return torch.exp(-squared / (2 * deviation**2))


def graph(codes: torch.Tensor, colours: torch.Tensor | None, share: float = 1.0) -> torch.Tensor:
    """Weights [n, t, t]: products of codes [n, c, h, w], 0 where negative, and `share` of the colours' affinities.

    Both are scaled so that the largest of an image is 1.
    """
    flat = codes.flatten(2)
    weights = (flat.mT @ flat).relu()
    weights = weights / weights.amax((1, 2), keepdim=True).clamp_min(1e-12)
    if colours is not None:
        weights = weights + share * colours / colours.amax((1, 2), keepdim=True).clamp_min(1e-12)
    return weights


def eigenvectors(weights: torch.Tensor, count: int) -> torch.Tensor:
    """Of the normalised Laplacian of graphs [n, t, t] the `count` smallest ones after the first: [n, t, count].

    Of v and -v the one with fewer positive entries, of as many the one whose first entry that is not 0 is negative. A
    node without any edge has degree 1. Graphs of fewer nodes have vectors of zeros for what they lack. A weight that is
    not finite is none: of codes that are not finite, the losses say so.
    """
    weights = weights.nan_to_num(0.0, 0.0, 0.0)
    degree = weights.sum(2)
    degree = torch.where(degree < 1e-12, torch.ones_like(degree), degree)
    laplacian = torch.diag_embed(degree) - weights
    scale = degree.rsqrt()
    normal = scale[:, :, None] * laplacian * scale[:, None]
    found = torch.linalg.eigh(normal)[1][:, :, 1 : 1 + count]
    positive, negative = (found > 0).sum(1), (found < 0).sum(1)
    first = found.gather(1, (found.abs() > 1e-6).to(torch.uint8).argmax(1, keepdim=True))[:, 0]
    turned = (positive > negative) | ((positive == negative) & (first > 0))
    found = torch.where(turned[:, None], -found, found)
    return nn.functional.pad(found, (0, count - found.shape[2]))


class Lookup(Prototypes):
    """Segments by the nearest of `clusters` learnt directions, the same for all images."""

    def segments(self, vectors: torch.Tensor, size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Segments [n, t] of vectors [n, t, c], and the loss: minus the cosines' mean, weighted by their softmax."""
        cosine = self(vectors.mT.unflatten(2, size))
        loss = -(cosine.softmax(1) * cosine).sum(1).mean()
        return cosine.detach().argmax(1).flatten(1), loss

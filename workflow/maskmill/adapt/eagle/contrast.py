"""EAGLE's losses: tokens against the medoids of segments, and correspondences whose shift follows the batch.

Kim, Han, Ju and Hwang, EAGLE (CVPR 2024), sections 3.3 and 3.4, as in its code.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

MOST = 0.8  # correlation of codes above which nothing is pulled together any more


@dataclass(frozen=True)
class ContrastSettings:
    """temperature: of the softmax. other: weight of the other view's tokens. smoothing: of the labels."""

    temperature: float
    other: float
    smoothing: float


def token_weights(f: torch.Tensor) -> torch.Tensor:
    """Weights [n, t] of the tokens of features [n, d, h, w]: how alike a token is to all, on average.

    Products of the tokens of an image, each column scaled to unit length; the mean of every row.
    """
    flat = f.flatten(2)
    return nn.functional.normalize(flat.mT @ flat, dim=1).mean(2)


def medoids(z: torch.Tensor, segments: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of every segment that has a token, the one with the smallest sum of distances to the others [s, c].

    Args:
        z: [m, c]. segments: [m].

    Returns:
        medoids, and for every token the row of its own [m].
    """
    numbers, own = segments.unique(return_inverse=True)
    places = []
    with torch.no_grad():
        for label in range(len(numbers)):
            members = (own == label).nonzero()[:, 0]
            rows = z[members].float()
            # Not with products of vectors: for equal ones they are wrong in the last digits, which then decide.
            distance = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")
            places.append(members[distance.sum(0).argmin()])
    return z[torch.stack(places)], own


def contrast(
    own: torch.Tensor, other: torch.Tensor, segments: torch.Tensor, weights: torch.Tensor, settings: ContrastSettings
) -> torch.Tensor:
    """Half the weighted mean cross-entropy of both views' tokens, to be nearest to their segment's medoid.

    Args:
        own, other: unit projections [m, c] of the same tokens in the view of the segments and in the other one.
        segments, weights: [m].
    """
    centres, labels = medoids(own, segments)
    # torch gives the label a part of what is smoothed; published, the other segments have all of it.
    smoothing = settings.smoothing * len(centres) / (len(centres) - 1) if len(centres) > 1 else 0.0
    parts = [
        nn.functional.cross_entropy(
            z @ centres.T / settings.temperature, labels, reduction="none", label_smoothing=smoothing
        )
        for z in (own, other)
    ]
    if settings.smoothing:  # published: the mean first, then weighted
        parts = [part.mean().expand_as(part) for part in parts]
    local, wide = ((part * weights).mean() for part in parts)
    return ((1 - settings.other) * local + settings.other * wide) / 2


def correspondence(f: torch.Tensor, s: torch.Tensor, bias: float, factor: float | None) -> torch.Tensor:
    """- mean(min(max(S, 0), MOST) (F - b)) with F centred already and a shift b that follows the means of both.

    Args:
        factor: of pairs of two images: b = factor (mean F + mean S - bias); None: of two views of one image, where b
            is |mean F - mean S - bias|. The gradient passes through b too, as in the code.
    """
    shift = (f.mean() - s.mean() - bias).abs() if factor is None else (f.mean() + s.mean() - bias) * factor
    return -(s.clamp(0, MOST) * (f - shift)).mean()

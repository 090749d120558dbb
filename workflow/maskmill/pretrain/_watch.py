"""What is watched while a backbone learns: whether its features of some fixed photos still tell these apart.

A self-supervised training can collapse without its loss saying so: all pictures get one vector, or vectors of a line.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from maskmill.backbones.learning import Learning
from maskmill.errors import NumericsError
from maskmill.numerics.sampling import rng
from maskmill.pretrain._heads import unit
from maskmill.pretrain._views import Photos, cut, middle

WATCHED = 64  # photos
NAMES = ("rank", "spread", "agreement")
LEAST_RANK = 1.5  # effective dimensions, below which the photos lie on a line
LEAST_SHARE = 0.05  # of what rank and spread were at the start; less is a collapse
FEW = 8  # fewer photos have hardly a rank
ASIDE = 0.8  # side of the second view: an off-centre part of the middle square


@dataclass(frozen=True)
class Watch:
    """Fixed pictures: [n, C, side, side] of the middle of some photos, and of another part of each, mirrored."""

    first: torch.Tensor
    second: torch.Tensor

    @classmethod
    def of(cls, photos: Photos, device: torch.device) -> Watch:
        """Drawn by the seed; in the size of the first crop."""
        chosen = sorted(rng(photos.seed, "watch").permutation(len(photos))[:WATCHED].tolist())
        side = photos.specs[0].side
        return cls(photos.plain(chosen, device, side), _aside(photos, chosen, side, device))

    @torch.no_grad()
    def measure(self, network: Learning) -> dict[str, float]:
        """The monitors `NAMES`; the network is seen as it is while it learns, without stochastic depth.

        rank: effective number of dimensions of the centred unit vectors, exp of the entropy of their shares of variance
        (Roy and Vetterli 2007). spread: mean of 1 - cosine between different photos. agreement: share of the photos
        whose nearest neighbour among the other views is the other view of the same photo.
        """
        first, second = (unit(network(each).cls.float()) for each in (self.first, self.second))
        n = len(first)
        between = first @ first.T
        spread = 1 - float((between.sum() - between.diagonal().sum()) / max(1, n * (n - 1)))
        agreement = float(((first @ second.T).argmax(1) == torch.arange(n, device=first.device)).float().mean())
        return {"rank": effective_rank(first), "spread": spread, "agreement": agreement}


def effective_rank(rows: torch.Tensor) -> float:
    """The exponential of the entropy of the singular values' shares, of centred rows [n, d]; 0 where all are equal."""
    values = torch.linalg.svdvals((rows - rows.mean(0)).double().cpu())
    total = float(values.sum())
    if total <= 1e-12:
        return 0.0
    shares = values / total
    return math.exp(float(-(shares * shares.clamp_min(1e-30).log()).sum()))


def check_alive(found: dict[str, float], start: dict[str, float], photos: int, step: int) -> None:
    """Stop a collapsed training.

    What photos show decides how far apart their features are, so they are compared with what they were at the start:
    an untrained network tells dim photos apart by 1e-5 of a cosine.

    Args:
        found, start: of `Watch.measure`, now and at the first step. photos: how many are watched.

    Raises:
        NumericsError: with what was seen and the ways out.
    """
    flat = photos >= FEW and found["rank"] < min(LEAST_RANK, start["rank"])
    if not flat and found["spread"] >= LEAST_SHARE * start["spread"]:
        return
    what = (
        f"features of different photos lie in {found['rank']:.2f} dimensions, {start['rank']:.2f} at the start"
        if flat
        else f"features of different photos differ by {found['spread']:.2g} (1 - cosine), {start['spread']:.2g} at the "
        "start"
    )
    raise NumericsError(
        f"pretrain: the training has collapsed at step {step}: {what}; lower pretrain.learning_rate, warm up longer, "
        "use a larger batch_size or more photos, or another method (docs/pretrain.md says what each needs)"
    )


def _aside(photos: Photos, items: Sequence[int], side: int, device: torch.device) -> torch.Tensor:
    """The lower right part of the middle square of each photo, mirrored."""
    squares = []
    for item in items:
        photo = photos.pixels(item)
        y0, y1, x0, x1 = middle(photo)
        box = (y1 - ASIDE * (y1 - y0), y1, x1 - ASIDE * (x1 - x0), x1)
        squares.append(np.ascontiguousarray(cut(photo, box, side)[:, ::-1]))
    return photos.normalisation(torch.from_numpy(np.stack(squares)).to(device))

"""A network of a few numbers in place of a backbone that learns, and views of random pictures for it."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from maskmill.backbones.learning import Maps
from maskmill.pretrain._learner import Learner
from maskmill.pretrain._views import Views


class ToyNetwork(nn.Module):
    """One convolution, with a batch norm where that is asked for."""

    depth, stride, is_vit, heads = 6, 4, False, None

    def __init__(self, norm: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, self.depth, 4, 4)
        self.norm = nn.BatchNorm2d(self.depth, track_running_stats=False) if norm else nn.Identity()

    def forward(self, x: torch.Tensor) -> Maps:
        tokens = self.norm(self.conv(x)).relu()
        return Maps(tokens, tokens.mean((2, 3)))

    def copy(self) -> ToyNetwork:
        return copy.deepcopy(self).requires_grad_(False)


def toy(norm: bool = False, seed: int = 0) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return ToyNetwork(norm)


def views(sides: tuple[int, ...], items: list[int], seed: int = 0, places: torch.Tensor | None = None) -> Views:
    """Random pictures of photos; `places` as where crops are regrouped."""
    draws = torch.Generator().manual_seed(seed)
    n = len(items)
    if places is None:
        places = torch.arange(n)[:, None].expand(-1, len(sides))
    return Views(
        tuple(torch.randn(n, 3, side, side, generator=draws) for side in sides),
        torch.zeros(n, len(sides), 4),
        torch.zeros(n, len(sides), dtype=torch.bool),
        places,
        torch.tensor(items),
    )


def part(whole: Views, rows: torch.Tensor) -> Views:
    """A micro-batch: crop c of row i is that of the photo at place rows[i, c] of the batch."""
    pictures = tuple(picture[rows[:, c]] for c, picture in enumerate(whole.pictures))
    return Views(pictures, whole.boxes[rows[:, 0]], whole.flips[rows[:, 0]], rows, whole.items[rows[:, 0]])


def losses(learner: Learner, micros: list[Views], step: int = 0) -> tuple[torch.Tensor, Any]:
    """The loss of a step as the trainer has it, with its graph, and the targets."""
    found = [learner.outputs(micro, torch.Generator(), step) for micro in micros]
    shared = [learner.shared(outputs) for outputs in found]
    targets = learner.targets({name: [each[name] for each in shared] for name in shared[0]}, step)
    parts = [learner.loss(outputs, targets, place, step)[:2] for place, outputs in enumerate(found)]
    return sum(loss * weight for loss, weight in parts) / sum(weight for _, weight in parts), targets  # type: ignore[return-value]

"""Vectors of unit length of all crops of a photo: the network's cls and a head with a hidden layer (SwAV)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import nn

from maskmill.backbones.learning import Learning
from maskmill.pretrain._heads import mlp, unit


class Embedder(nn.Module):
    """The head of SwAV and DeepCluster-v2; a batch norm sees the crops of one side, or all of them in the head."""

    def __init__(self, depth: int, hidden: int, dimensions: int) -> None:
        super().__init__()
        self.layers = mlp([depth, hidden, dimensions], nn.ReLU, norm=True)

    def forward(self, network: Learning, pictures: Sequence[torch.Tensor]) -> torch.Tensor:
        """Crops [n, C, side, side] of each kind -> [crops, n, dimensions] float32 of unit length.

        Neighbouring crops of one side go through the network together.
        """
        sides = itertools.groupby(pictures, key=lambda picture: picture.shape[-1])
        cls = torch.cat([network(torch.cat(list(alike))).cls for _, alike in sides])
        return unit(self.layers(cls).float()).view(len(pictures), len(pictures[0]), -1)

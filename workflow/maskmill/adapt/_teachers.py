"""What follows the weights that learn: moving averages that are kept in the head, and so in its checkpoint."""

from __future__ import annotations

import torch
from torch import nn

from maskmill.adapt._modules import unit


class Followed(nn.Module):
    """Prototypes that are not learnt but follow others: a buffer `weight` [k, c], which clusters are read from."""

    weight: torch.Tensor

    def __init__(self, clusters: int, dimensions: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(clusters, dimensions))

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        """Cosine of codes [n, c, h, w] with every prototype, [n, k, h, w]; the gradient reaches the codes only."""
        return torch.einsum("nchw,kc->nkhw", unit(codes), unit(self.weight))


@torch.no_grad()
def follow(teacher: nn.Module, online: nn.Module, momentum: float) -> None:
    """Every tensor of the teacher becomes momentum * itself + (1 - momentum) * the one of the same name that learns."""
    targets = dict(teacher.named_parameters()) | dict(teacher.named_buffers())
    for name, value in online.named_parameters():
        targets[name].lerp_(value.to(targets[name].dtype), 1 - momentum)

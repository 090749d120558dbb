"""Teachers: moving averages of the weights that learn, kept in the head and so in its checkpoint."""

from __future__ import annotations

import torch
from torch import nn

from maskmill.adapt._modules import cosines, unit


class AveragedPrototypes(nn.Module):
    """Prototypes that are the moving average of others: a buffer `weight` [k, c], from which the clusters are read."""

    weight: torch.Tensor

    def __init__(self, clusters: int, dimensions: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(clusters, dimensions))

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        """Cosine of codes [n, c, h, w] with every prototype, [n, k, h, w]; the gradient reaches the codes only."""
        return cosines(codes, self.weight)


@torch.no_grad()
def ema_update(teacher: nn.Module, online: nn.Module, momentum: float) -> None:
    """One step of the moving average: teacher = momentum * teacher + (1 - momentum) * online, tensor by tensor."""
    targets = dict(teacher.named_parameters()) | dict(teacher.named_buffers())
    for name, value in online.named_parameters():
        targets[name].lerp_(value.to(targets[name].dtype), 1 - momentum)


class Scores(nn.Module):
    """A linear map without a bias whose rows have a direction and a gain of their own (weight normalisation)."""

    def __init__(self, clusters: int, dimensions: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(clusters, dimensions))
        self.gain = nn.Parameter(torch.ones(clusters))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Tokens [m, d] -> scores [m, k]."""
        return self.gain * (x @ unit(self.weight).T)


class ScoreHead(nn.Module):
    """Scores of tokens by a teacher: a code is the scores of the centred unit token, and prototype k is the k-th axis.

    So the nearest prototype by cosine is the class of the largest score, gains included.

    Attributes:
        mean: [d], what is subtracted from every token.
    """

    mean: torch.Tensor

    def __init__(self, clusters: int, dimensions: int) -> None:
        super().__init__()
        self.student = Scores(clusters, dimensions)
        self.teacher = Scores(clusters, dimensions).requires_grad_(False)
        self.prototypes = AveragedPrototypes(clusters, clusters)
        self.prototypes.weight.copy_(torch.eye(clusters))
        self.register_buffer("mean", torch.zeros(dimensions))
        ema_update(self.teacher, self.student, 0.0)

    def codes(self, x: torch.Tensor) -> torch.Tensor:
        """Tokens [n, d, h, w] -> codes [n, k, h, w]."""
        rows = unit(x.permute(0, 2, 3, 1) - self.mean, -1)
        return torch.as_tensor(self.teacher(rows)).permute(0, 3, 1, 2)

"""Parts that several heads are made of."""

from __future__ import annotations

import torch
from torch import nn

from maskmill.device import float32


def unit(x: torch.Tensor, dim: int = 1) -> torch.Tensor:
    """Vectors along `dim` scaled to unit length."""
    return nn.functional.normalize(x, dim=dim, eps=1e-10)


def cosines(codes: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
    """Cosine of codes [n, c, h, w] with the rows of directions [k, c], [n, k, h, w]; float32 under autocast too.

    The largest one names a class, and in bfloat16 near ones are equal.
    """
    with float32(codes.device):
        return torch.einsum("nchw,kc->nkhw", unit(full(codes)), unit(full(directions)))


def full(x: torch.Tensor) -> torch.Tensor:
    """A tensor with at least the precision of float32."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def drop_channels(x: torch.Tensor, share: float, draws: torch.Generator | None) -> torch.Tensor:
    """Dropout2d of maps [n, c, h, w] by a generator: whole channels of an image; without one nothing is dropped."""
    if draws is None or share <= 0:
        return x
    keep = torch.rand(x.shape[:2], generator=draws, device=x.device) >= share
    return x * (keep / (1 - share))[:, :, None, None].to(x.dtype)


def drop_entries(x: torch.Tensor, share: float, draws: torch.Generator | None) -> torch.Tensor:
    """Dropout of single entries by a generator; without one nothing is dropped."""
    if draws is None or share <= 0:
        return x
    keep = torch.rand(x.shape, generator=draws, device=x.device) >= share
    return x * (keep / (1 - share)).to(x.dtype)


class Projector(nn.Module):
    """STEGO's head: a linear map plus a two-layer one, both 1x1 convolutions, [n, d, h, w] -> [n, c, h, w].

    `hidden` is the width of the second map, None for d.
    """

    def __init__(
        self,
        depth: int,
        dimensions: int,
        dropout: float = 0.1,
        activation: type[nn.Module] = nn.ReLU,
        hidden: int | None = None,
    ) -> None:
        super().__init__()
        self.dropout = dropout
        self.linear = nn.Conv2d(depth, dimensions, 1)
        width = depth if hidden is None else hidden
        # The non-linear branch; its name stands in the files of heads and can not change.
        self.bent = nn.Sequential(nn.Conv2d(depth, width, 1), activation(), nn.Conv2d(width, dimensions, 1))

    def forward(self, x: torch.Tensor, draws: torch.Generator | None = None) -> torch.Tensor:
        """Codes; with a generator each branch drops channels of its own."""
        linear = self.linear(drop_channels(x, self.dropout, draws))
        return torch.as_tensor(linear + self.bent(drop_channels(x, self.dropout, draws)))


class Prototypes(nn.Module):
    """k directions that codes are compared with."""

    def __init__(self, clusters: int, dimensions: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(clusters, dimensions))

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        """Cosine of codes [n, c, h, w] with every prototype, [n, k, h, w]."""
        return cosines(codes, self.weight)


class CodeHead(nn.Module):
    """A projector and the prototypes of its codes: the head that most methods train."""

    def __init__(self, projector: nn.Module, clusters: int, dimensions: int) -> None:
        super().__init__()
        self.projector, self.prototypes = projector, Prototypes(clusters, dimensions)

    def codes(self, x: torch.Tensor) -> torch.Tensor:
        """Tokens [n, d, h, w] -> codes [n, c, h, w]; nothing is dropped."""
        return torch.as_tensor(self.projector(x))


def probe_loss(cosine: torch.Tensor) -> torch.Tensor:
    """Online spherical k-means (STEGO's cluster probe): minus the mean of the largest cosine [n, k, h, w]."""
    return -cosine.amax(1).mean()


def usage(cosine: torch.Tensor) -> dict[str, torch.Tensor]:
    """Monitors of an assignment [n, k, h, w]: entropy of the cluster sizes (1: even), share used, largest cluster."""
    k = cosine.shape[1]
    labels = cosine.argmax(1).flatten()
    # Not bincount, for which the host waits. Whole numbers as doubles: their sum has no order.
    ones = torch.ones(1, dtype=torch.float64, device=labels.device).expand(len(labels))
    sizes = torch.zeros(k, dtype=torch.float64, device=labels.device).scatter_add_(0, labels, ones)
    share = sizes / sizes.sum()
    entropy = -(share * share.clamp_min(1e-12).log()).sum() / torch.log(torch.tensor(float(max(k, 2))))
    return {"entropy": entropy, "used": (sizes > 0).double().mean(), "largest": share.max()}

"""The loss of IIC and its network of two heads.

Ji, Henriques and Vedaldi, Invariant information clustering (ICCV 2019), section 3.3 and the segmentation code.
"""

from __future__ import annotations

import sys

import torch
from torch import nn

from maskmill.device import float32

EPS = sys.float_info.epsilon  # least probability inside a logarithm; it is representable as float32


class ClassHead(nn.Module):
    """A trunk and two classifiers, the main one of k classes and a finer one; codes are the main one's probabilities.

    The prototypes are the unit vectors: a token's nearest one by cosine is its most probable class.
    """

    def __init__(self, trunk: nn.Module, dimensions: int, clusters: int, over: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.main = nn.Conv2d(dimensions, clusters, 1, bias=False)
        self.over = nn.Conv2d(dimensions, over, 1, bias=False)
        self.prototypes = UnitVectors(clusters)

    def probabilities(self, x: torch.Tensor, over: bool = False) -> torch.Tensor:
        """Tokens [n, d, h, w] -> class probabilities [n, k, h, w] float32 of the main or the finer classifier."""
        head = self.over if over else self.main
        return torch.as_tensor(head(torch.relu(self.trunk(x))).float().softmax(1))

    def codes(self, x: torch.Tensor) -> torch.Tensor:
        """Tokens [n, d, h, w] -> probabilities [n, k, h, w]."""
        return self.probabilities(x)


class UnitVectors(nn.Module):
    """Prototypes of codes that are probabilities: the unit vectors [k, k]."""

    def __init__(self, clusters: int) -> None:
        super().__init__()
        self.weight: torch.Tensor
        self.register_buffer("weight", torch.eye(clusters))


def joint(one: torch.Tensor, two: torch.Tensor, shift: int) -> torch.Tensor:
    """Joint distributions [t, t, k, k] of the classes of two views at all shifts up to `shift` a side, t = 2 shift + 1.

    One convolution, with the second view's maps as kernels. Each shift's matrix sums to 1 and is symmetric.

    Args:
        one, two: probabilities [n, k, h, w] in one frame, 0 where a place is not to be counted.
    """
    raw = nn.functional.conv2d(one.transpose(0, 1), two.transpose(0, 1), padding=shift)  # [k, k, t, t]
    p = raw.permute(2, 3, 0, 1)
    p = p / p.sum((2, 3), keepdim=True).clamp_min(EPS)
    return (p + p.transpose(2, 3)) / 2


def loss(one: torch.Tensor, two: torch.Tensor, shift: int, lam: float) -> torch.Tensor:
    """Minus the mutual information of two views' classes, the mean over all shifts; the marginals weighted by `lam`.

    Args:
        one, two: see `joint`.
    """
    with float32(one.device):
        p = joint(one.float(), two.float(), shift)
        rows, columns = p.sum(3, keepdim=True).clamp_min(EPS), p.sum(2, keepdim=True).clamp_min(EPS)
        p = p.clamp_min(EPS)
        return -(p * (p.log() - lam * rows.log() - lam * columns.log())).sum((2, 3)).mean()

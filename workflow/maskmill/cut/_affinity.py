"""Token graphs as operators: what a spectral cut multiplies by, without Laplacian or degree matrix.

Notation: n tokens, affinity A [n, n] symmetric and non-negative, degree d = A 1. Vectors are rows [b, n].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

TILE = 256  # tokens a side of the tiles of the graph: one tile stays in the cache
STRIP = 256  # rows of a matrix larger than the cache that all vectors are multiplied by before the next
CACHE = 2048  # tokens up to which the graph about fits the cache


class Affinity(Protocol):
    """A symmetric affinity that can be multiplied by."""

    @property
    def degree(self) -> torch.Tensor:
        """A 1 [n]."""

    def times(self, x: torch.Tensor) -> torch.Tensor:
        """Rows x [b, n] times A."""

    def double(self) -> Affinity:
        """The same in float64, for eigenvalues that float32 can not tell apart."""

    def dense(self) -> np.ndarray:
        """A in float64 [n, n], for the solver of last resort."""


@dataclass(frozen=True)
class BinaryAffinity:
    """A = eps + (1 - eps) B with B the 0/1 matrix of cosines above tau, diagonal included (TokenCut).

    Attributes:
        edges: B, float32 [n, n], exactly symmetric. eps: weight of a pair without an edge.
        degree: A 1 [n]. density: share of ones off the diagonal.
    """

    edges: torch.Tensor
    eps: float
    degree: torch.Tensor
    density: float

    @classmethod
    def of(cls, tokens: torch.Tensor, tau: float, eps: float) -> BinaryAffinity:
        """From tokens [n, d] of any length above zero. A token that is all zero has cosine 0 with every other."""
        edges = threshold_cosines(unit_rows(tokens), tau)
        return cls.from_edges(edges, eps)

    @classmethod
    def from_edges(cls, edges: torch.Tensor, eps: float) -> BinaryAffinity:
        """From a symmetric 0/1 matrix [n, n], float32 or float64, with ones on the diagonal."""
        n = len(edges)
        neighbours = edges.sum(1)  # whole numbers below 2^24: exact
        density = (float(neighbours.sum(dtype=torch.float64)) - n) / max(1, n * (n - 1))
        return cls(edges, eps, eps * n + (1 - eps) * neighbours, density)

    def double(self) -> BinaryAffinity:
        """The same in float64."""
        return BinaryAffinity.from_edges(self.edges.double(), self.eps)

    def times(self, x: torch.Tensor) -> torch.Tensor:
        """Rows x [b, n] times A."""
        n = len(self.edges)
        product = (self.eps * x.sum(1, keepdim=True)).repeat(1, n)
        step = STRIP if n > CACHE and not x.is_cuda else n
        for i in range(0, n, step):
            product.addmm_(x[:, i : i + step], self.edges[i : i + step], alpha=1 - self.eps)
        return product

    def dense(self) -> np.ndarray:
        """A in float64 [n, n]."""
        return self.edges.double().mul_(1 - self.eps).add_(self.eps).cpu().numpy()


def unit_rows(tokens: torch.Tensor) -> torch.Tensor:
    """Rows of length one [n, d]; free of overflow and underflow at any scale. Zero rows stay zero."""
    tokens = tokens / tokens.abs().amax(1, keepdim=True).clamp_min(torch.finfo(tokens.dtype).tiny)
    return tokens / tokens.norm(dim=1, keepdim=True).clamp_min(0.5)  # the norm is at least 1 by now, or 0


def threshold_cosines(unit: torch.Tensor, tau: float) -> torch.Tensor:
    """1 where the cosine of two rows of unit [n, d] exceeds tau, else 0: float32 [n, n], ones on the diagonal.

    Only one triangle is computed, tile by tile, and mirrored: half the work, and rounding can not make the graph
    asymmetric. The result is the only n x n matrix in memory.
    """
    n = len(unit)
    edges = _empty(n, unit.device)
    for top in range(0, n, TILE):
        rows = slice(top, top + TILE)
        for left in range(top, n, TILE):
            columns = slice(left, left + TILE)
            tile = (unit[rows] @ unit[columns].T).gt_(tau)
            edges[rows, columns] = tile if left > top else tile.maximum(tile.T)
            if left > top:
                edges[columns, rows] = tile.T
    return edges.fill_diagonal_(1.0)


def _empty(n: int, device: torch.device) -> torch.Tensor:
    """Float32 [n, n], not filled. NumPy's memory comes in huge pages, which saves a quarter of the time of a graph."""
    if device.type == "cpu":
        return torch.from_numpy(np.empty((n, n), np.float32))
    return torch.empty(n, n, device=device)

"""Token graphs as operators: what a spectral cut multiplies by, without Laplacian or degree matrix.

Notation: n tokens, affinity A [n, n] symmetric and non-negative, degree d = A 1. Vectors are rows [b, n].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

STRIP = 192  # rows of a strip of the graph: a strip stays in the cache while it is multiplied by twice


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
    """A = eps + (1 - eps) K B K: B the 0/1 matrix of cosines above tau, diagonal included (TokenCut).

    K = diag(keep) takes tokens out of the graph: a painted token (MaskCut) has weight eps to every token and itself,
    as if its vector were zero. Painting needs no new graph.

    Attributes:
        strips: B in float32, the upper triangle only: rows of up to STRIP tokens, from the column of the first of
            them on (`threshold_strips`). eps: weight of a pair without an edge.
        keep: 0/1 [n], 0 where painted; None where nothing is.
        degree: A 1 [n]. density: share of ones of B off the diagonal, among the tokens that are not painted.
    """

    strips: tuple[torch.Tensor, ...]
    eps: float
    keep: torch.Tensor | None
    degree: torch.Tensor
    density: float

    @classmethod
    def of(cls, tokens: torch.Tensor, tau: float, eps: float) -> BinaryAffinity:
        """From tokens [n, d] of any length above zero. A token that is all zero has cosine 0 with every other."""
        return cls._of_strips(threshold_strips(unit_rows(tokens), tau), eps)

    @classmethod
    def from_edges(cls, edges: torch.Tensor, eps: float) -> BinaryAffinity:
        """From a symmetric 0/1 matrix [n, n], float32 or float64, with ones on the diagonal."""
        return cls._of_strips((edges,), eps)

    @classmethod
    def _of_strips(
        cls, strips: tuple[torch.Tensor, ...], eps: float, keep: torch.Tensor | None = None
    ) -> BinaryAffinity:
        n = strips[0].shape[1]
        kept = strips[0].new_ones(n) if keep is None else keep
        neighbours = kept * strips_times(strips, kept[None])[0]  # whole numbers below 2^24: exact
        count = float(kept.sum())
        pairs = float(neighbours.sum(dtype=torch.float64)) - count
        density = pairs / max(1.0, count * (count - 1))
        return cls(strips, eps, keep, eps * n + (1 - eps) * neighbours, density)

    def painted(self, keep: torch.Tensor) -> BinaryAffinity:
        """The same graph with only the tokens where keep [n] is true."""
        return self._of_strips(self.strips, self.eps, keep.to(self.degree))

    def double(self) -> BinaryAffinity:
        """The same in float64."""
        keep = None if self.keep is None else self.keep.double()
        return self._of_strips(tuple(strip.double() for strip in self.strips), self.eps, keep)

    def times(self, x: torch.Tensor) -> torch.Tensor:
        """Rows x [b, n] times A."""
        leak = self.eps * x.sum(1, keepdim=True)
        if self.keep is None:
            return strips_times(self.strips, x).mul_(1 - self.eps).add_(leak)
        inner = strips_times(self.strips, x * self.keep).mul_(self.keep)
        return inner.mul_(1 - self.eps).add_(leak)

    def dense(self) -> np.ndarray:
        """A in float64 [n, n]."""
        n = len(self.degree)
        edges = np.empty((n, n))
        top = 0
        for strip in self.strips:
            rows = slice(top, top + len(strip))
            edges[rows, top:] = strip.cpu().numpy()
            edges[top:, rows] = edges[rows, top:].T
            top += len(strip)
        if self.keep is not None:
            keep = self.keep.double().cpu().numpy()
            edges *= keep[:, None]
            edges *= keep
        edges *= 1 - self.eps
        edges += self.eps
        return edges


@dataclass(frozen=True)
class BinaryBatch:
    """`BinaryAffinity` for b images of n tokens each, as one [b, n, n] matrix: what a GPU multiplies by.

    Attributes:
        edges: B, float32 [b, n, n]. keep: 0/1 [b, n]. degree: A 1 [b, n]. density: [b], as there.
    """

    edges: torch.Tensor
    eps: float
    keep: torch.Tensor
    degree: torch.Tensor
    density: list[float]

    @classmethod
    def of(cls, tokens: torch.Tensor, tau: float, eps: float) -> BinaryBatch:
        """From tokens [b, n, d]."""
        b, n, d = tokens.shape
        unit = unit_rows(tokens.reshape(b * n, d)).reshape(b, n, d)
        edges = torch.bmm(unit, unit.transpose(1, 2)).gt_(tau)
        for graph in edges:  # rounding must not make a graph asymmetric
            torch.maximum(graph, graph.T.clone(), out=graph).fill_diagonal_(1.0)
        return cls._of(edges, eps, edges.new_ones(b, n))

    @classmethod
    def _of(cls, edges: torch.Tensor, eps: float, keep: torch.Tensor) -> BinaryBatch:
        neighbours = keep * torch.bmm(keep[:, None], edges)[:, 0]  # [b, n]
        count = keep.sum(1, dtype=torch.float64)
        density = (neighbours.sum(1, dtype=torch.float64) - count) / (count * (count - 1)).clamp_min(1.0)
        degree = eps * edges.shape[1] + (1 - eps) * neighbours
        return cls(edges, eps, keep, degree, density.tolist())

    def select(self, images: list[int]) -> BinaryBatch:
        """Some of the images."""
        if images == list(range(len(self.edges))):
            return self
        return self._of(self.edges[images], self.eps, self.keep[images])

    def painted(self, keep: torch.Tensor) -> BinaryBatch:
        """The same graphs with only the tokens where keep [b, n] is true."""
        return self._of(self.edges, self.eps, keep.to(self.degree))

    def one(self, image: int) -> BinaryAffinity:
        """One image's affinity."""
        return BinaryAffinity._of_strips((self.edges[image],), self.eps, self.keep[image])

    def times(self, x: torch.Tensor) -> torch.Tensor:
        """Rows x [b, k, n] times each image's A."""
        keep = self.keep[:, None]
        inner = torch.bmm(x * keep, self.edges).mul_(keep)
        return inner.mul_(1 - self.eps).add_(self.eps * x.sum(2, keepdim=True))


def unit_rows(tokens: torch.Tensor) -> torch.Tensor:
    """Rows of length one [n, d]; free of overflow and underflow at any scale. Zero rows stay zero."""
    norm = torch.linalg.vector_norm(tokens, dim=1, keepdim=True, dtype=torch.float64)
    if float(norm.min()) > 1e-30 and float(norm.max()) < 1e30:  # in float32 the reciprocal is safe
        return tokens * norm.reciprocal().to(tokens.dtype)
    tokens = tokens / tokens.abs().amax(1, keepdim=True).clamp_min(torch.finfo(tokens.dtype).tiny)
    return tokens / tokens.norm(dim=1, keepdim=True).clamp_min(0.5)  # the norm is at least 1 by now, or 0


def threshold_strips(x: torch.Tensor, tau: float) -> tuple[torch.Tensor, ...]:
    """1 where the product of two rows of x [n, d] exceeds tau, else 0, with ones on the diagonal: float32 strips.

    A strip holds rows top..top+k and columns top..n. The lower triangle is neither computed nor kept: half the work,
    half the memory, and rounding can not make the graph asymmetric.
    """
    n = len(x)
    strips = []
    for top in range(0, n, n if x.is_cuda else STRIP):
        rows = slice(top, n if x.is_cuda else top + STRIP)
        strip = (x[rows] @ x[top:].T).gt_(tau)
        corner = strip[:, : len(strip)]
        corner.copy_(corner.maximum(corner.T)).fill_diagonal_(1.0)
        strips.append(strip)
    return tuple(strips)


def strips_times(strips: tuple[torch.Tensor, ...], x: torch.Tensor) -> torch.Tensor:
    """Rows x [b, n] times the symmetric matrix of which `strips` hold the upper triangle."""
    product = torch.zeros_like(x)
    top = 0
    for strip in strips:
        end = top + len(strip)
        product[:, top:end].addmm_(x[:, top:], strip.T)
        if end < x.shape[1]:
            product[:, end:].addmm_(x[:, top:end], strip[:, end - top :])
        top = end
    return product

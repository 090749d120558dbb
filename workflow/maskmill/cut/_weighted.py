"""Weighted token graphs: clamped cosines, colour neighbours, and local colour graphs.

Notation as in maskmill.cut._affinity.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from maskmill.cut._affinity import unit_rows

if TYPE_CHECKING:
    from scipy.sparse import csr_array

STRIP = 256  # rows of the graph that are computed at once
FLAT = 1e-6  # largest difference of cosines without structure
NEIGHBOURS = ((20, 2.0), (10, 0.1))  # of the colour graph: neighbours a cell, weight of its place


@dataclass(frozen=True)
class WeightedAffinity:
    """A symmetric matrix of weights, as an operator (see maskmill.cut._affinity.Affinity).

    Attributes:
        matrix: A [n, n], float32 or float64, exactly symmetric. degree: A 1 [n].
    """

    matrix: torch.Tensor
    degree: torch.Tensor

    @classmethod
    def of(cls, matrix: torch.Tensor) -> WeightedAffinity:
        """From a symmetric matrix [n, n] of weights; a token without any edge is joined to itself.

        The sums are pairwise ones in the matrix's own type, exact to a few units in the last place: in float64 they
        would take as long as a dozen products.
        """
        degree = matrix.sum(1)
        alone = torch.nonzero(degree <= 1e-12)[:, 0]
        matrix[alone, alone] = 1
        degree[alone] = 1
        return cls(matrix, degree)

    def double(self) -> WeightedAffinity:
        """The same in float64."""
        return WeightedAffinity.of(self.matrix.double())

    def times(self, x: torch.Tensor) -> torch.Tensor:
        """Rows x [b, n] times A."""
        return x @ self.matrix

    def dense(self) -> np.ndarray:
        """A in float64 [n, n]."""
        return self.matrix.double().cpu().numpy().copy()


def positive_cosines(tokens: torch.Tensor) -> torch.Tensor:
    """max(C, 0) / max(C) of the cosines C of tokens [n, d]: float32 [n, n], exactly symmetric, diagonal kept."""
    return cosines(tokens, least=0.0)  # max(C) is on the diagonal, 1 up to rounding: nothing is left to divide by


def scaled_cosines(tokens: torch.Tensor, alpha: float) -> torch.Tensor | None:
    """The cosines C of tokens [n, d] as ((C - min C) / (max C - min C))^alpha: float32 [n, n], exactly symmetric.

    DiffCut (Couairon et al., NeurIPS 2024, section 3.2). None where all cosines are the same up to rounding.
    """
    matrix = cosines(tokens)
    low, high = float(matrix.min()), float(matrix.max())
    if high - low <= FLAT:
        return None
    return matrix.sub_(low).div_(high - low).pow_(alpha)


def cosines(tokens: torch.Tensor, least: float = -math.inf) -> torch.Tensor:
    """Cosines of tokens [n, d], those below `least` raised to it: float32 [n, n], exactly symmetric.

    One triangle is computed, in strips of rows, and mirrored: rounding can not make the graph asymmetric. A token that
    is all zero has cosine 0 with every token, itself included.
    """
    unit = unit_rows(tokens)
    n = len(unit)
    matrix = torch.from_numpy(np.empty((n, n), np.float32)) if unit.device.type == "cpu" else unit.new_empty(n, n)
    for top in range(0, n, STRIP):
        end = min(n, top + STRIP)
        strip = torch.mm(unit[top:end], unit[top:].T)  # [<= 256, n - top], its first columns symmetric
        strip.clamp_min_(least)
        strip[:, : end - top] = strip[:, : end - top].maximum(strip[:, : end - top].T)
        matrix[top:end, top:] = strip
        matrix[end:, top:end] = strip[:, end - top :].T
    return matrix


def neighbour_colours(colour: np.ndarray) -> csr_array:
    """The k-nearest-neighbour graph of colour and place of r, g, b [h, w, 3] in 0..1: symmetric counts [n, n].

    The graph behind k-NN matting, as Deep Spectral Methods fuses it: for (k, s) = (20, 2) and (10, 0.1) every cell
    looks for its k nearest in (r, g, b, s x, s y), itself included, with x, y in 0..1 along their own side; each pair
    found counts once in both directions. Entries are the small whole numbers that come of it, not normalised.
    """
    from scipy.sparse import coo_array
    from scipy.spatial import cKDTree

    h, w = colour.shape[:2]
    n = h * w
    y, x = np.meshgrid(np.linspace(0, 1, h), np.linspace(0, 1, w), indexing="ij")
    rgb = colour.reshape(n, 3).astype(np.float64)
    pairs = []
    for k, weight in NEIGHBOURS:
        points = np.column_stack([rgb, weight * x.ravel(), weight * y.ravel()])
        _, nearest = cKDTree(points).query(points, k=min(k, n))
        nearest = nearest.reshape(n, -1)  # k = 1 comes flat
        pairs.append(np.stack([np.repeat(np.arange(n), nearest.shape[1]), nearest.ravel()]))
    i, j = np.concatenate(pairs, 1)
    once = coo_array((np.ones(len(i)), (i, j)), shape=(n, n)).tocsr()
    return (once + once.T).tocsr()


def add_sparse(matrix: torch.Tensor, sparse: csr_array, weight: float) -> torch.Tensor:
    """Add weight * sparse to matrix [n, n], in place."""
    entries = sparse.tocoo()
    place = (torch.from_numpy(entries.coords[0].astype(np.int64)), torch.from_numpy(entries.coords[1].astype(np.int64)))
    values = torch.from_numpy(entries.data).to(matrix) * weight
    return matrix.index_put_(tuple(part.to(matrix.device) for part in place), values, accumulate=True)


def local_graph(
    features: np.ndarray, *, sigma_feature: float, sigma_place: float, radius: float, floor: float = 0.0
) -> csr_array:
    """exp(-|dF|^2 / sigma_F^2) exp(-|dX|^2 / sigma_X^2) within `radius`, else 0: symmetric [n, n] (Shi, Malik).

    Float64; the diagonal is empty.

    Args:
        features: F [h, w, c]. Places X are cells over the longer side of the grid, as are radius and sigma_place; a
            radius below one cell still joins the four neighbours.
        floor: smallest weight of a pair within the radius: exp(-100) of a black-white edge is 0 for any solver.
    """
    from scipy.sparse import coo_array

    h, w, c = features.shape
    flat, index = features.reshape(h * w, c).astype(np.float64), np.arange(h * w).reshape(h, w)
    reach = max(1.0, radius * max(h, w))
    steps = range(-int(reach), int(reach) + 1)
    offsets = [(dy, dx) for dy in steps for dx in steps if (dy, dx) > (0, 0) and dy * dy + dx * dx <= reach * reach]
    rows, columns, weights = [], [], []
    for dy, dx in offsets:  # half of the disc: the other half is its mirror
        if dy >= h or abs(dx) >= w:
            continue
        here = index[: h - dy, max(0, -dx) : w - max(0, dx)].ravel()
        there = index[dy:, max(0, dx) : w - max(0, -dx)].ravel()
        apart = np.square(flat[here] - flat[there]).sum(1) / sigma_feature**2
        place = (dy * dy + dx * dx) / max(h, w) ** 2 / sigma_place**2
        rows.append(here)
        columns.append(there)
        weights.append(np.maximum(np.exp(-apart - place), floor))
    if not rows:
        return coo_array((h * w, h * w)).tocsr()
    i, j, value = np.concatenate(rows), np.concatenate(columns), np.concatenate(weights)
    half = coo_array((value, (i, j)), shape=(h * w, h * w)).tocsr()
    return (half + half.T).tocsr()

"""Fast bilateral solver: the class map that is smooth where the photo is, and close to the one given.

Barron, Poole, "The fast bilateral solver", ECCV 2016, with the parameters that TokenCut and FOUND use. Pixels fall into
the cells of a grid over position and YUV colour; on the cells the solver minimises

    lambda z (Dm - Dn B Dn) z + sum c (z - t)^2,   B: both neighbours along each axis and 2 * axes times the cell,

with Dn, Dm from ten steps of bistochastisation, by conjugate gradients from t.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from maskmill.recipe.base import Model
from maskmill.refine import Traits

if TYPE_CHECKING:
    from scipy.sparse import csr_array

TO_YUV = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])  # BT.601
BISTOCHASTIC_STEPS = 10
AXES = 5


TRAITS = Traits()


class Params(Model):
    """Symbols of the paper and TokenCut's values."""

    xy_std: float = Field(16.0, gt=0, le=1e4, description="cell in pixels, at `side`")
    luma_std: float = Field(16.0, gt=0, le=255, description="cell in luma levels")
    chroma_std: float = Field(8.0, gt=0, le=255, description="cell in chroma levels")
    smoothness: float = Field(256.0, gt=0, le=1e6, description="lambda")
    confidence: float = Field(0.999, gt=0, le=1, description="c, the weight of the map given, the same everywhere")
    iterations: int = Field(25, ge=1, le=1000, description="conjugate gradient steps at most")
    tolerance: float = Field(1e-5, gt=0, lt=1, description="relative residual at which they stop")
    side: int = Field(480, ge=0, description="side of the image that the cell is meant for; 0: of this one")
    largest: bool = Field(True, description="cut, one segment: fill holes, keep the largest component (TokenCut)")


def one_part(params: Params) -> bool:
    """As `largest` says."""
    return params.largest


def refine(logits: np.ndarray, image: np.ndarray, params: Params, void: np.ndarray | None = None) -> np.ndarray:
    """Solved maps float32 [k, H, W] of logits [k, H, W]; void pixels (bool [H, W]) have no influence."""
    scale = np.sqrt(image.shape[0] * image.shape[1]) / params.side if params.side else 1.0
    solver = _Solver(image, params, params.xy_std * scale, void)
    if len(logits) != 2:
        return np.stack([solver.solve(given) for given in logits])
    difference = solver.solve(logits[1] - logits[0])  # two maps that sum to a constant need one solution
    return np.stack([-difference, difference]) / 2


class _Solver:
    """The grid of one image: n pixels in m cells."""

    def __init__(self, image: np.ndarray, params: Params, xy_std: float, void: np.ndarray | None) -> None:
        self.params, self.size = params, image.shape[:2]
        codes, steps = _codes(image, xy_std, params.luma_std, params.chroma_std)
        cells, self.cell = np.unique(codes.ravel(), return_inverse=True)  # [m], [n]
        self.valid = np.ones(codes.size) if void is None else 1.0 - void.ravel()
        self.count = np.bincount(self.cell, self.valid, len(cells))  # pixels of a cell [m]
        self.adjacent = _adjacency(cells, steps)
        n = np.ones(len(cells))
        for _ in range(BISTOCHASTIC_STEPS):
            n = np.sqrt(n * self.count / np.maximum(self._blur(n), 1e-12))  # cells of void pixels alone get 0
        self.n, self.m = n, n * self._blur(n)

    def _blur(self, z: np.ndarray) -> np.ndarray:
        """B z: twice the number of axes times the cell, and its neighbours."""
        return 2 * AXES * z + self.adjacent @ z

    def solve(self, target: np.ndarray) -> np.ndarray:
        """Target [H, W] smoothed, float32 [H, W]."""
        from scipy.sparse import diags_array
        from scipy.sparse.linalg import cg

        p = self.params
        weight = p.confidence * self.count  # [m]
        goal = p.confidence * np.bincount(self.cell, self.valid * target.ravel(), len(self.count))
        dn = diags_array(self.n)
        smooth = diags_array(self.m - 2 * AXES * self.n**2) - dn @ self.adjacent @ dn
        matrix = (p.smoothness * smooth + diags_array(weight)).tocsr()
        start = goal / np.maximum(weight, 1e-12)
        precondition = diags_array(1 / np.maximum(matrix.diagonal(), 1e-5))
        z, _ = cg(matrix, goal, x0=start, M=precondition, maxiter=p.iterations, rtol=p.tolerance)
        return z[self.cell].reshape(self.size).astype(np.float32)


def _codes(image: np.ndarray, xy_std: float, luma_std: float, chroma_std: float) -> tuple[np.ndarray, list[int]]:
    """The cell of every pixel as one number [H, W] int64, and what one cell further adds to it, by axis."""
    height, width = image.shape[:2]
    yuv = image.astype(np.float64) @ TO_YUV.T + [0, 128, 128]
    x, y = np.arange(width) / xy_std, np.arange(height)[:, None] / xy_std
    axes = [x, y, yuv[..., 0] / luma_std, yuv[..., 1] / chroma_std, yuv[..., 2] / chroma_std]
    codes, steps, step = np.zeros((height, width), np.int64), [], 1
    for axis in axes:
        index = np.floor(axis).astype(np.int64) + 1  # room for the neighbour below: codes never wrap into each other
        codes += step * index
        steps.append(step)
        step *= int(index.max()) + 2
    return codes, steps


def _adjacency(cells: np.ndarray, steps: list[int]) -> csr_array:
    """0/1 matrix [m, m]: cells (sorted codes) that touch along one axis."""
    from scipy.sparse import csr_array

    rows, columns = [], []
    for step in steps:
        place = np.minimum(np.searchsorted(cells, cells + step), len(cells) - 1)
        found = np.flatnonzero(cells[place] == cells + step)
        rows += [found, place[found]]
        columns += [place[found], found]
    i, j = np.concatenate(rows), np.concatenate(columns)
    return csr_array((np.ones(len(i)), (i, j)), shape=(len(cells), len(cells)))

"""The spectral engine of the cuts: affinity operators and a deflated Lanczos solver, in float32 torch on any device.

Notation: n tokens, affinity A [n, n], degree d = A 1, S = D^-1/2 A D^-1/2. The generalised problem
(D - A) y = lambda D y is S v = (1 - lambda) v with y = D^-1/2 v. The trivial pair (lambda 0, v ~ D^1/2 1) is projected
out, so the largest eigenvalue that is left belongs to the Fiedler vector. No Laplacian and no degree matrix is formed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

STEPS_BETWEEN_CHECKS = 5
MIN_STEPS = 10
MAX_STEPS = 300
ANGLE = 0.02  # bound on the sine of the angle between the Ritz vector and the eigenvector
LOOSEST_RESIDUAL = 0.01
BREAKDOWN = 1e-5  # beta below this: the Krylov space is invariant, nothing is left to find


@dataclass(frozen=True)
class BinaryAffinity:
    """A = eps + (1 - eps) B with B the 0/1 matrix of cosines above tau, diagonal included (TokenCut).

    Attributes:
        edges: B, float32 [n, n]. degree: A 1 [n]. density: share of ones off the diagonal.
    """

    edges: torch.Tensor
    eps: float
    degree: torch.Tensor
    density: float

    @classmethod
    def of(cls, tokens: torch.Tensor, tau: float, eps: float) -> BinaryAffinity:
        """From tokens [n, d]; they are normalised here."""
        n = len(tokens)
        unit = torch.nn.functional.normalize(tokens, dim=1)
        edges = (unit @ unit.T).gt_(tau)  # [n, n], in place: one n x n matrix in memory
        edges.fill_diagonal_(1.0)
        neighbours = edges.sum(1)
        density = (float(neighbours.sum(dtype=torch.float64)) - n) / max(1, n * (n - 1))
        return cls(edges, eps, eps * n + (1 - eps) * neighbours, density)

    def times(self, x: torch.Tensor) -> torch.Tensor:
        """A x [n]."""
        return self.eps * x.sum() + (1 - self.eps) * (self.edges @ x)


@dataclass(frozen=True)
class Fiedler:
    """The second eigenpair and what is known of its quality.

    Attributes:
        y: generalised eigenvector [n]. value, following: lambda_2, lambda_3. residual: of the symmetric problem.
        steps: Lanczos steps; 0 where the dense solver was needed. single: every vector is an eigenvector (no
            structure at all).
    """

    y: torch.Tensor
    value: float
    following: float
    residual: float
    steps: int
    single: bool = False


def fiedler(affinity: BinaryAffinity, start: torch.Tensor) -> Fiedler:
    """Fiedler pair by deflated Lanczos with full re-orthogonalisation, stopped by an angle bound.

    Every five steps the Ritz pairs are compared; the iteration ends when the leading residual r_1 satisfies
    r_1 <= 0.02 (theta_1 - theta_2 - r_2) (Davis-Kahan: the angle to the eigenvector is below 0.02) and r_1 <= 0.01.
    After 300 steps without that the float64 dense solver takes over.
    """
    scale = affinity.degree.rsqrt()  # [n]
    trivial = affinity.degree.sqrt()
    trivial = trivial / trivial.norm()
    n = len(trivial)
    limit = min(MAX_STEPS, n - 1)
    basis = torch.empty(limit + 1, n, dtype=start.dtype, device=start.device)
    basis[0] = trivial  # deflation is one more row to be orthogonal to
    vector = _orthonormal(start, basis[:1])[0]
    diagonal: list[float] = []
    off: list[float] = []
    for step in range(1, limit + 1):
        basis[step] = vector
        image = scale * affinity.times(scale * vector)
        diagonal.append(float(vector @ image))
        vector, beta = _orthonormal(image, basis[: step + 1])
        off.append(beta)
        finished = beta < BREAKDOWN or step == n - 1
        if not finished and (step < MIN_STEPS or step % STEPS_BETWEEN_CHECKS):
            continue
        theta, ritz, residual = _ritz(diagonal, off)
        if step == 1 and finished:
            return Fiedler(scale * basis[1], 1 - float(theta[0]), 1 - float(theta[0]), 0.0, 1, single=n > 2)
        if finished or _converged(theta, residual):
            y = scale * (torch.as_tensor(ritz[:, 0], dtype=start.dtype, device=start.device) @ basis[1 : step + 1])
            following = 1 - float(theta[1]) if len(theta) > 1 else 1.0
            return Fiedler(y, 1 - float(theta[0]), following, float(residual[0]), step)
    return _dense(affinity)


def _orthonormal(vector: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, float]:
    """`vector` made orthogonal to `rows` (twice, which is enough) and normalised; and the norm that was left."""
    for _ in range(2):
        vector = vector - (rows @ vector) @ rows
    norm = float(vector.norm())
    return vector / max(norm, 1e-30), norm


def _ritz(diagonal: list[float], off: list[float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ritz values (descending), vectors in the Krylov basis, and residual norms."""
    size = len(diagonal)
    matrix = np.diag(diagonal) + np.diag(off[: size - 1], 1) + np.diag(off[: size - 1], -1)
    theta, ritz = np.linalg.eigh(matrix)
    theta, ritz = theta[::-1], ritz[:, ::-1]
    return theta, np.ascontiguousarray(ritz), np.abs(off[size - 1] * ritz[-1])


def _converged(theta: np.ndarray, residual: np.ndarray) -> bool:
    separation = theta[0] - theta[1] - residual[1]
    return bool(residual[0] <= ANGLE * separation and residual[0] <= LOOSEST_RESIDUAL)


def _dense(affinity: BinaryAffinity) -> Fiedler:
    """All eigenpairs in float64: slow and sure."""
    edges = affinity.edges.double()
    scale = affinity.degree.double().rsqrt()
    matrix = scale[:, None] * (affinity.eps + (1 - affinity.eps) * edges) * scale
    theta, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    y = (scale * vectors[:, -2]).to(affinity.edges.dtype)
    return Fiedler(y, 1 - float(theta[-2]), 1 - float(theta[-3]) if len(theta) > 2 else 1.0, 0.0, 0)

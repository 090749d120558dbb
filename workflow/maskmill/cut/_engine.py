"""The spectral engine of the cuts: deflated block Lanczos on an affinity operator, in torch on any device.

Notation: n tokens, affinity A [n, n], degree d = A 1, S = D^-1/2 A D^-1/2. The generalised problem
(D - A) y = lambda D y is S v = theta v with lambda = 1 - theta and y = D^-1/2 v. The trivial pair (lambda 0,
v ~ D^1/2 1) is projected out, so the largest eigenvalue that is left belongs to the Fiedler vector.

Why blocks of two: Lanczos from one vector sees a multiple eigenvalue once, whatever its multiplicity, and returns one
arbitrary vector of its eigenspace with a perfect residual. Two vectors see it twice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from maskmill.cut._affinity import Affinity

length = torch.linalg.vector_norm  # Tensor.norm takes three times as long to get there

BLOCK = 2
MIN_STEPS = 8  # products with a block before the first look: 6 give the same masks, but lambda_3 only to 0.03
STEPS_BETWEEN_LOOKS = 4
MAX_BASIS = 300  # Krylov vectors; then the dense solver
SMALL = 96  # tokens up to which the dense solver is as fast
ANGLE = 0.02  # bound on the sine of the angle between Ritz vectors and eigenvectors
LOOSEST_RESIDUAL = 0.01
ROUNDING = 2.0  # in machine epsilons: no residual is believed to be smaller
STALLED = 30.0  # in machine epsilons: where all residuals are below, what is not resolved now never will be
BREAKDOWN = 100.0  # in machine epsilons: what is left of a unit vector below is noise, the Krylov space is exhausted
CANCELLED = 0.05  # what is left of a unit vector below this has lost digits: orthogonalise once more
MULTIPLE = 1e-9  # eigenvalues closer than this, in float64, are one


@dataclass(frozen=True)
class Spectrum:
    """The smallest non-trivial generalised eigenpairs of (D - A) y = lambda D y.

    Attributes:
        values: lambda_2 ... lambda_{k+2}, float64 [k + 1]: one more than vectors; 1 where n is too small for it.
        vectors: y of the first k, rows [k, n], float32, y D y = 1; the first entry of the largest magnitude (within
            a thousandth) is positive.
        residual: largest |S v - theta v| of the k pairs, measured with one more product.
        steps: block products; 0 where the dense float64 solver ran.
    """

    values: np.ndarray
    vectors: torch.Tensor
    residual: float
    steps: int

    @property
    def multiple(self) -> bool:
        """True when the k-th eigenvalue equals the next: the k-th vector is an arbitrary one of its eigenspace."""
        return bool(self.values[-1] - self.values[-2] <= MULTIPLE)


def solve(affinity: Affinity, pairs: int, generator: np.random.Generator) -> Spectrum:
    """The first `pairs` non-trivial eigenpairs; `generator` gives the start vectors.

    Block Lanczos with full re-orthogonalisation. Every four steps the Ritz pairs are looked at; the iteration ends
    when r_k <= 0.02 (theta_k - theta_{k+1} - r_{k+1}) (Davis-Kahan: the angle to the true vectors is below 0.02) and
    r_k <= 0.01, with r the residual norms. Where float32 can not tell theta_k from theta_{k+1} the iteration is run
    again in float64; where 300 Krylov vectors are not enough, the dense float64 solver takes over.
    """
    if len(affinity.degree) <= SMALL:
        return _dense(affinity, pairs)
    found = _Lanczos(affinity, generator).run(pairs)
    return found or _Lanczos(affinity.double(), generator).run(pairs) or _dense(affinity, pairs)


class _Lanczos:
    """One run. `basis` rows: the trivial vector, then the Krylov vectors in blocks."""

    def __init__(self, affinity: Affinity, generator: np.random.Generator) -> None:
        self.affinity, self.generator = affinity, generator
        degree = affinity.degree
        self.n = len(degree)
        self.noise = float(torch.finfo(degree.dtype).eps)
        self.scale = degree.rsqrt()  # [n]
        trivial = degree.sqrt()
        self.limit = min(MAX_BASIS, (self.n - 1) // BLOCK * BLOCK)
        self.basis = degree.new_empty(1 + self.limit + BLOCK, self.n)
        self.basis[0] = trivial / trivial.norm()  # deflation is one more row to be orthogonal to
        self.projected = np.zeros((self.limit, self.limit))  # basis S basis^T without the trivial row

    def run(self, pairs: int) -> Spectrum | None:
        """None where the pairs were not resolved in this precision, or not in 300 vectors."""
        self._extend(self._random(BLOCK), 1)
        for step, size in enumerate(range(BLOCK, self.limit + 1, BLOCK), start=1):
            rest = self._step(size)
            if step < MIN_STEPS or step % STEPS_BETWEEN_LOOKS or size <= pairs:
                continue
            theta, ritz, residual = ritz_pairs(self.projected[:size, :size], rest, self.noise)
            stalled = residual[: pairs + 1].max() <= STALLED * self.noise
            multiple = theta[pairs - 1] - theta[pairs] <= MULTIPLE and STALLED * self.noise < MULTIPLE
            if resolved(theta, residual, pairs) or (stalled and multiple):
                return self._result(theta[: pairs + 1], ritz[:, :pairs], step)
            if stalled:
                break
        return None

    def _step(self, size: int) -> np.ndarray:
        """Multiply the last block (the basis has `size` Krylov vectors) and append the next: its coupling [b, b]."""
        image = self._operator(self.basis[1 + size - BLOCK : 1 + size])  # [b, n]
        image, coefficients = _orthogonal(image, self.basis[: 1 + size])
        column = coefficients[:, 1:].double().cpu().numpy()  # [b, size]
        self.projected[size - BLOCK : size, :size] = column
        self.projected[:size, size - BLOCK : size] = column.T
        return self._extend(image, 1 + size)

    def _operator(self, x: torch.Tensor) -> torch.Tensor:
        """S x for rows [b, n]."""
        return self.affinity.times(x * self.scale).mul_(self.scale)

    def _extend(self, block: torch.Tensor, row: int) -> np.ndarray:
        """Orthonormalise block [b, n] into basis[row:]: the coefficients [b, b] with block = coefficients @ rows.

        A vector that lies in the span of the basis is replaced by a random one, whose coefficients are 0.
        """
        coupling = np.zeros((BLOCK, BLOCK))
        for i in range(BLOCK):
            vector = block[i : i + 1]
            if i:
                vector, inside = _orthogonal(vector, self.basis[row : row + i])
                coupling[i, :i] = inside[0].double().cpu().numpy()
            norm = coupling[i, i] = float(length(vector))
            if norm < BREAKDOWN * self.noise:
                coupling[i, i] = 0.0
                vector, _ = _orthogonal(self._random(1), self.basis[: row + i])
                norm = float(length(vector))
            vector = vector / max(norm, 1e-30)
            if norm < CANCELLED:
                vector, _ = _orthogonal(vector, self.basis[: row + i])
                vector = vector / length(vector).clamp_min(1e-30)
            self.basis[row + i] = vector[0]
        return coupling

    def _random(self, count: int) -> torch.Tensor:
        """Random directions, orthogonal to the trivial vector [count, n]."""
        drawn = torch.from_numpy(self.generator.standard_normal((count, self.n)))
        vectors, _ = _orthogonal(drawn.to(self.scale), self.basis[:1])
        return vectors / vectors.norm(dim=1, keepdim=True)

    def _result(self, theta: np.ndarray, ritz: np.ndarray, step: int) -> Spectrum:
        """One more product gives the true residual, and a better vector.

        S v / theta has less of every unwanted direction than v, and is the same number for tokens with the same
        neighbours, so that plateaus of y are flat.
        """
        coefficients = torch.as_tensor(ritz.T.copy(), dtype=self.scale.dtype, device=self.scale.device)
        vectors = coefficients @ self.basis[1 : 1 + len(ritz)]  # [k, n]
        images = self._operator(vectors)
        values = (vectors * images).sum(1, keepdim=True)  # Rayleigh quotients
        residual = float((images - values * vectors).norm(dim=1).max())
        images, _ = _orthogonal(images, self.basis[:1])
        smoothed = torch.where(values.abs() > 0.1, images, vectors)
        smoothed = smoothed / smoothed.norm(dim=1, keepdim=True)
        return Spectrum(1 - theta, fix_sign(smoothed * self.scale).float(), residual, step)


def ritz_pairs(projected: np.ndarray, rest: np.ndarray, noise: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ritz values (descending), vectors in the Krylov basis [m, m] as columns, and residual norms.

    Args:
        projected: S in the Krylov basis, [m, m]. rest: coupling of its last block to the next, [b, b].
        noise: machine epsilon of the products.
    """
    theta, ritz = np.linalg.eigh(projected)
    theta, ritz = theta[::-1], ritz[:, ::-1]
    residual = np.linalg.norm(rest.T @ ritz[-BLOCK:], axis=0)
    return theta, ritz, np.maximum(residual, ROUNDING * noise)


def resolved(theta: np.ndarray, residual: np.ndarray, pairs: int) -> bool:
    """The stopping rule of `solve`."""
    gap = theta[pairs - 1] - theta[pairs]
    return bool(residual[:pairs].max() <= min(ANGLE * (gap - residual[pairs]), LOOSEST_RESIDUAL))


def _orthogonal(x: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows x [b, n] less their parts along orthonormal `rows` [m, n], taken off twice; and the parts [b, m]."""
    first = x @ rows.T
    x = torch.addmm(x, first, rows, alpha=-1)
    second = x @ rows.T
    return torch.addmm(x, second, rows, alpha=-1), first.add_(second)


def fix_sign(y: torch.Tensor) -> torch.Tensor:
    """Rows with the first of their entries of the largest magnitude, up to a thousandth, made positive."""
    magnitude = y.abs()
    peak = (magnitude >= (1 - 1e-3) * magnitude.amax(1, keepdim=True)).to(torch.uint8).argmax(1, keepdim=True)
    return y * y.gather(1, peak).sign()


def _dense(affinity: Affinity, pairs: int) -> Spectrum:
    """The wanted eigenpairs in float64: slow and sure."""
    from scipy.linalg import eigh

    matrix = affinity.dense()
    scale = matrix.sum(1) ** -0.5
    n = len(scale)
    matrix *= scale[:, None]
    matrix *= scale
    lowest = max(0, n - 2 - pairs)
    theta, vectors = eigh(matrix, subset_by_index=[lowest, n - 1], overwrite_a=True, check_finite=False)
    values = np.ones(pairs + 1)
    values[: len(theta) - 1] = 1 - theta[-2::-1]
    rows = np.ascontiguousarray((scale[:, None] * vectors[:, -2 : -2 - pairs : -1]).T)  # [k, n]
    y = torch.as_tensor(rows, dtype=torch.float32, device=affinity.degree.device)
    return Spectrum(values, fix_sign(y), 0.0, 0)

"""The spectral engine for a GPU: the same block Lanczos on a batch of images with as many tokens each.

One image's products are too small for a GPU. Here b images are iterated together with `bmm`, each with its own start
vectors and its own stop; nothing is read back between two looks at the Ritz pairs. An image that needs care (float32
does not resolve its eigenvalues, or its Krylov space is exhausted) is handed to `maskmill.cut._engine.solve`, alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from maskmill.cut._affinity import BinaryBatch
from maskmill.cut._engine import (
    BLOCK,
    BREAKDOWN,
    MIN_STEPS,
    SMALL,
    STEPS_BETWEEN_LOOKS,
    Spectrum,
    fix_sign,
    resolved,
    ritz_pairs,
    solve,
)

BASIS = 80  # Krylov vectors an image; then it is solved alone


def solve_batch(batch: BinaryBatch, pairs: int, generators: Sequence[np.random.Generator]) -> list[Spectrum]:
    """`solve` for every image of a batch; `generators` give each image's start vectors.

    An image's result differs from `solve` by rounding, and from one batch to another by no more.
    """
    found: list[Spectrum | None] = [None] * len(generators)
    if batch.edges.shape[1] > SMALL:
        found = _BatchLanczos(batch, generators).run(pairs)
    each = enumerate(zip(found, generators, strict=True))
    return [spectrum or solve(batch.one(i), pairs, generator) for i, (spectrum, generator) in each]


class _BatchLanczos:
    """One run. `basis` rows of each image: the trivial vector, then the Krylov vectors in blocks."""

    def __init__(self, batch: BinaryBatch, generators: Sequence[np.random.Generator]) -> None:
        self.batch = batch
        degree = batch.degree
        b, n = degree.shape
        self.noise = float(torch.finfo(degree.dtype).eps)
        self.scale = degree.rsqrt()[:, None]  # [b, 1, n]
        self.limit = min(BASIS, (n - 1) // BLOCK * BLOCK)
        self.basis = degree.new_zeros(b, 1 + self.limit + BLOCK, n)
        trivial = degree.sqrt()
        self.basis[:, 0] = trivial / trivial.norm(dim=1, keepdim=True)
        self.projected = degree.new_zeros(b, self.limit, self.limit)
        self.exhausted = torch.zeros(b, dtype=torch.bool, device=degree.device)
        start = np.stack([generator.standard_normal((BLOCK, n)) for generator in generators])
        block, _ = _orthogonal(torch.from_numpy(start).to(degree), self.basis[:, :1])
        self._extend(block / block.norm(dim=2, keepdim=True), 1)

    def run(self, pairs: int) -> list[Spectrum | None]:
        """None for an image that is better solved alone."""
        results: list[Spectrum | None] = [None] * len(self.basis)
        waiting = list(range(len(self.basis)))
        for step, size in enumerate(range(BLOCK, self.limit + 1, BLOCK), start=1):
            rest = self._step(size)
            if step < MIN_STEPS or step % STEPS_BETWEEN_LOOKS:
                continue
            exhausted = self.exhausted.cpu().numpy()
            waiting = [i for i in waiting if not exhausted[i]]
            projected, coupling = (x.double().cpu().numpy() for x in (self.projected[:, :size, :size], rest))
            done = {}
            for i in waiting:
                theta, ritz, residual = ritz_pairs(projected[i], coupling[i], self.noise)
                if resolved(theta, residual, pairs):
                    done[i] = (theta[: pairs + 1], ritz[:, :pairs])
            for i, spectrum in self._results(done, pairs, size, step).items():
                results[i] = spectrum
            waiting = [i for i in waiting if i not in done]
            if not waiting:
                break
        return results

    def _step(self, size: int) -> torch.Tensor:
        """Multiply the last block and append the next: its coupling [b, BLOCK, BLOCK]."""
        image = self._operator(self.basis[:, 1 + size - BLOCK : 1 + size])
        image, coefficients = _orthogonal(image, self.basis[:, : 1 + size])
        column = coefficients[:, :, 1:]  # [b, BLOCK, size]
        self.projected[:, size - BLOCK : size, :size] = column
        self.projected[:, :size, size - BLOCK : size] = column.transpose(1, 2)
        return self._extend(image, 1 + size)

    def _operator(self, x: torch.Tensor) -> torch.Tensor:
        """S x for rows [b, k, n]."""
        return self.batch.times(x * self.scale).mul_(self.scale)

    def _extend(self, block: torch.Tensor, row: int) -> torch.Tensor:
        """Orthonormalise block [b, BLOCK, n] into basis[:, row:]: the coefficients [b, BLOCK, BLOCK].

        Every vector is orthogonalised once more after it was normalised. `_engine._Lanczos` does so only where digits
        were lost; for a batch, finding that out would take longer than doing it.
        """
        coupling = block.new_zeros(len(block), BLOCK, BLOCK)
        for i in range(BLOCK):
            vector = block[:, i : i + 1]
            if i:
                vector, inside = _orthogonal(vector, self.basis[:, row : row + i])
                coupling[:, i, :i] = inside[:, 0]
            norm = vector.norm(dim=2, keepdim=True)
            coupling[:, i, i] = norm[:, 0, 0]
            self.exhausted |= norm[:, 0, 0] < BREAKDOWN * self.noise
            vector, _ = _orthogonal(vector / norm.clamp_min(1e-30), self.basis[:, : row + i])
            self.basis[:, row + i] = (vector / vector.norm(dim=2, keepdim=True).clamp_min(1e-30))[:, 0]
        return coupling

    def _results(
        self, done: dict[int, tuple[np.ndarray, np.ndarray]], pairs: int, size: int, step: int
    ) -> dict[int, Spectrum]:
        """As `_engine._Lanczos._result`, for the images in `done`."""
        if not done:
            return {}
        coefficients = np.zeros((len(self.basis), pairs, size), np.float32)
        for i, (_, ritz) in done.items():
            coefficients[i] = ritz.T
        vectors = torch.bmm(torch.from_numpy(coefficients).to(self.basis), self.basis[:, 1 : 1 + size])
        images = self._operator(vectors)
        values = (vectors * images).sum(2, keepdim=True)
        residual = (images - values * vectors).norm(dim=2).amax(1).tolist()
        images, _ = _orthogonal(images, self.basis[:, :1])
        smoothed = torch.where(values.abs() > 0.1, images, vectors)
        smoothed = smoothed / smoothed.norm(dim=2, keepdim=True)
        y = (smoothed * self.scale).cpu()
        return {i: Spectrum(1 - theta, fix_sign(y[i]), residual[i], step) for i, (theta, _) in done.items()}


def _orthogonal(x: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows x [b, k, n] less their parts along orthonormal `rows` [b, m, n], taken off twice; and the parts."""
    first = torch.bmm(x, rows.transpose(1, 2))
    x = torch.baddbmm(x, first, rows, alpha=-1)
    second = torch.bmm(x, rows.transpose(1, 2))
    return torch.baddbmm(x, second, rows, alpha=-1), first + second

"""Dense CRF: mean field with a bilateral and a Gaussian pairwise term.

Krähenbühl, Koltun, "Efficient inference in fully connected CRFs with Gaussian edge potentials", NeurIPS 2011. Potts
compatibility, kernels normalised symmetrically (K 1)^-1/2 K (K 1)^-1/2 as in pydensecrf; the update is

    log Q <- unary + compat_smooth K_smooth Q + compat K_bilateral Q,   started at Q = softmax(unary).

The bilateral kernel runs on a permutohedral lattice (`_lattice`), the Gaussian is an exact separable filter cut off at
three standard deviations. The defaults are those of CutLER, given at 480x480; STEGO and its family use xy_std 67,
rgb_std 3, compat 4, xy_std_smooth 1, compat_smooth 3 at 320x320 (`side: 320`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from maskmill.recipe.base import Model
from maskmill.refine import Traits

if TYPE_CHECKING:
    from maskmill.refine._lattice import Lattice

ABSENT = 1e-3  # a class that is nowhere more likely than this is left out of the following iterations
IMPOSSIBLE = -1e4  # logit of a class that only fills up a multiple of eight


TRAITS = Traits()


class Params(Model):
    """Symbols of the literature."""

    xy_std: float = Field(50.0, gt=0, le=1e4, description="bilateral term: standard deviation in pixels")
    rgb_std: float = Field(5.0, gt=0, le=1e3, description="bilateral term: standard deviation in grey levels")
    compat: float = Field(10.0, ge=0, le=1e3, description="bilateral term: weight")
    xy_std_smooth: float = Field(3.0, gt=0, le=1e3, description="Gaussian term: standard deviation in pixels")
    compat_smooth: float = Field(7.0, ge=0, le=1e3, description="Gaussian term: weight")
    iterations: int = Field(10, ge=1, le=100, description="mean-field iterations")
    side: int = Field(480, ge=0, description="side of the image that the pixels are meant for; 0: of this one")


def one_part(params: Params) -> bool:
    """A segment keeps all its parts."""
    return False


def refine(logits: np.ndarray, image: np.ndarray, params: Params, void: np.ndarray | None = None) -> np.ndarray:
    """Marginal probabilities float32 [k, H, W] of the classes.

    Args:
        logits: [k, H, W], whose softmax over k is the unary term.
        image: uint8 [H, W, 3].
        void: bool [H, W], pixels that neither vote nor change: they keep softmax(logits).

    Raises:
        NumericsError: standard deviations too small for the image.
    """
    from maskmill.refine._lattice import Lattice

    logits = np.asarray(logits, np.float32)
    if len(logits) == 1:
        return np.ones_like(logits)
    scale = np.sqrt(image.shape[0] * image.shape[1]) / params.side if params.side else 1.0
    lattice = Lattice.of(image, params.xy_std * scale, params.rgb_std)
    field = _Field(lattice, image.shape[:2], params, params.xy_std_smooth * scale, void)
    if len(logits) == 2:
        odds = field.two(logits[1] - logits[0])
        foreground = 1 / (1 + np.exp(-np.clip(odds, -80, 80)))
        return np.stack([1 - foreground, foreground])
    return field.many(logits)


class _Field:
    """The two kernels of one image with their normalisers, and the iteration."""

    def __init__(
        self, lattice: Lattice, size: tuple[int, ...], params: Params, smooth_std: float, void: np.ndarray | None
    ) -> None:
        from maskmill.refine._gauss import taps

        self.lattice, self.size, self.params = lattice, size, params
        self.taps = taps(smooth_std, max(size))
        self.compat = (np.float32(params.compat_smooth), np.float32(params.compat))
        valid = np.ones(size, np.float32) if void is None else 1 - void.astype(np.float32)
        padded = self._padded()
        padded[self._inside] = valid[:, None]
        mass = lattice.filter(valid.reshape(-1, 1)).reshape(size)
        self.plane_norm, self.grid_norm = (
            np.where(valid > 0, 1 / np.sqrt(np.maximum(total, 1e-20)), 0).astype(np.float32)
            for total in (self._smoothed(padded)[:, 0], mass)
        )

    @property
    def _inside(self) -> slice:
        reach = len(self.taps) - 1
        return slice(reach, reach + self.size[0])

    def _padded(self, classes: int = 1) -> np.ndarray:
        reach = len(self.taps) - 1
        return np.zeros((self.size[0] + 2 * reach, classes, self.size[1]), np.float32)

    def _smoothed(self, padded: np.ndarray) -> np.ndarray:
        from maskmill.refine._gauss import smooth

        out = np.empty((self.size[0], padded.shape[1], self.size[1]), np.float32)
        smooth(padded, self.taps, out)
        return out

    def two(self, unary: np.ndarray) -> np.ndarray:
        """Log-odds [H, W] after the iterations, from those of the unary term."""
        from maskmill.refine._field import RUN, update_two
        from maskmill.refine._lattice import blur

        grid, held, plane = self._grids(1)
        padded, out = self._padded(), np.empty(self.size, np.float32)
        settled, base = np.zeros((self.size[0], -(-self.size[1] // RUN)), bool), np.zeros(len(grid), np.float32)
        for step in range(self.params.iterations + 1):
            if step:
                blur(self.lattice.neighbours, grid, held)
                plane = self._smoothed(padded)
            update_two(
                self.lattice.vertices, self.lattice.weights, unary, plane[:, 0], grid[:, 0], self.plane_norm,
                self.grid_norm, self.compat, padded[self._inside, 0], held[:, 0], out, settled, base,
                step == 0, step == self.params.iterations,
            )  # fmt: skip
            grid, held = held, grid
        return out

    def many(self, logits: np.ndarray) -> np.ndarray:
        """Probabilities [k, H, W] after the iterations."""
        from maskmill.refine._field import update_many
        from maskmill.refine._lattice import blur

        active = np.arange(len(logits))
        unary = _in_eights(np.moveaxis(logits, 0, 1), active)  # [H, c, W]
        grid, held, plane = self._grids(unary.shape[1])
        padded, out = self._padded(unary.shape[1]), np.empty_like(unary)
        peak = np.empty(unary.shape[1], np.float32)
        for step in range(self.params.iterations + 1):
            if step:
                blur(self.lattice.neighbours, grid, held)
                plane = self._smoothed(padded)
            update_many(
                self.lattice.vertices, self.lattice.weights, unary, plane, grid, self.plane_norm,
                self.grid_norm, self.compat, padded[self._inside], held, out, peak,
                step == 0, step == self.params.iterations,
            )  # fmt: skip
            grid, held = held, grid
            kept = np.flatnonzero(peak[: len(active)] >= ABSENT)
            if -(-len(kept) // 8) < unary.shape[1] // 8 and step < self.params.iterations:
                active = active[kept]
                unary, padded = _in_eights(unary, kept), _in_eights(padded, kept, 0)
                grid = np.ascontiguousarray(_in_eights(grid[..., None], kept, 0)[..., 0])
                held, out, peak = np.zeros_like(grid), np.empty_like(unary), np.empty(unary.shape[1], np.float32)
        whole = np.zeros((len(logits), *self.size), np.float32)
        whole[active] = np.moveaxis(out[:, : len(active)], 1, 0)
        return whole

    def _grids(self, classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        shape = (self.lattice.size + 1, classes)
        plane = np.zeros((self.size[0], classes, self.size[1]), np.float32)
        return np.zeros(shape, np.float32), np.zeros(shape, np.float32), plane


def _in_eights(values: np.ndarray, classes: np.ndarray, fill: float = IMPOSSIBLE) -> np.ndarray:
    """The chosen classes of [n, c, w], and as many of value `fill` as it takes to a multiple of eight."""
    out = np.full((values.shape[0], -(-len(classes) // 8) * 8, values.shape[2]), fill, np.float32)
    out[:, : len(classes)] = values[:, classes]
    return out

"""Guided filter: each class map becomes a locally affine function of the photo's colours.

He, Sun, Tang, "Guided image filtering", TPAMI 2013, section 3.5 (colour guide): in every window q = a I + b with
a = (Sigma + eps)^-1 cov(I, p), b = mean(p) - a mean(I); a pixel takes the mean of a and b over the windows that hold
it.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from maskmill.recipe.base import Model
from maskmill.refine import Traits

TRAITS = Traits()


class Params(Model):
    """Symbols of the paper."""

    radius: float = Field(20.0, ge=1, le=1e4, description="half the window's side in pixels, at `side`")
    eps: float = Field(1e-4, gt=0, le=1, description="variance below which colour is ignored, colours in 0..1")
    side: int = Field(480, ge=0, description="side of the image that the radius is meant for; 0: of this one")


def one_part(params: Params) -> bool:
    """A segment keeps all its parts."""
    return False


def refine(logits: np.ndarray, image: np.ndarray, params: Params, void: np.ndarray | None = None) -> np.ndarray:
    """Filtered logits float32 [k, H, W] of [k, H, W]; void pixels (bool [H, W]) keep theirs and do not vote."""
    height, width = image.shape[:2]
    scale = np.sqrt(height * width) / params.side if params.side else 1.0
    box = _Box(max(1, round(params.radius * scale)), void, (height, width))
    guide = np.moveaxis(image.astype(np.float64) / 255, 2, 0)  # [3, H, W]
    mean = box.mean(guide)
    covariance = box.mean(guide[:, None] * guide[None]) - mean[:, None] * mean[None]  # [3, 3, H, W]
    covariance[range(3), range(3)] += params.eps
    inverse = np.linalg.inv(np.moveaxis(covariance, (0, 1), (2, 3)))  # [H, W, 3, 3]
    out = np.empty(logits.shape, np.float32)
    for k, given in enumerate(logits.astype(np.float64)):
        average = box.mean(given[None])[0]
        cross = box.mean(guide * given) - mean * average  # [3, H, W]
        a = np.einsum("hwij,jhw->ihw", inverse, cross)
        b = average - (a * mean).sum(0)
        out[k] = (box.mean(a) * guide).sum(0) + box.mean(b[None])[0]
    return out if void is None else np.where(void, logits, out).astype(np.float32)


class _Box:
    """Means over square windows of the pixels that count, [..., H, W]."""

    def __init__(self, radius: int, void: np.ndarray | None, size: tuple[int, int]) -> None:
        self.size = 2 * radius + 1
        self.valid = np.ones(size) if void is None else 1.0 - void
        self.share = np.maximum(self._window(self.valid), 1e-12)

    def _window(self, x: np.ndarray) -> np.ndarray:
        from scipy.ndimage import uniform_filter1d

        x = uniform_filter1d(x, self.size, axis=-1, mode="constant")
        return np.asarray(uniform_filter1d(x, self.size, axis=-2, mode="constant"))

    def mean(self, x: np.ndarray) -> np.ndarray:
        """Mean over the window; 0 where no pixel counts."""
        return self._window(x * self.valid) / self.share

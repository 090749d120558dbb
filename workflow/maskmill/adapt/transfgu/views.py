"""What a step sees: crops of photos, and of their pseudo masks; the light of the photos.

The published code crops a share of 0.4 to 0.9 of both sides, resizes it to half of them, and averages the pseudo mask
over each cell of the crop's grid (RoIAlign). Changes of light are drawn once for all photos of a step, as it applies
torchvision's transforms to whole batches.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.functional import interpolate

from maskmill.adapt import _warp
from maskmill.adapt._data import order, stack
from maskmill.numerics.sampling import rng

if TYPE_CHECKING:
    from maskmill.adapt._photos import FrozenPhotos
    from maskmill.adapt._training import HeadTraining
    from maskmill.adapt.transfgu.activation import PseudoMasks
    from maskmill.adapt.transfgu.params import Params

MICRO = {"cpu": 8, "cuda": 64}  # photos of a micro-batch: fixed, so that no sum depends on the threads
CROP_TENTHS = (4, 10)  # sides of crops in tenths of the photo's, the second one excluded
JITTER, HUE = 0.8, 0.2  # largest changes of brightness, contrast and saturation, and of the hue
CHANCES = {"jitter": 0.3, "grey": 0.2, "blur": 0.2}
SIGMA = (1.0, 2.0)  # of the blur


def draw(size: tuple[int, int], count: int, draws: np.random.Generator) -> np.ndarray:
    """Crops of photos of a size (H, W): top, left, height and width in pixels, and 1 where mirrored [n, 5] int64."""
    share = draws.integers(*CROP_TENTHS, count) / 10
    sides = [np.floor(length * share + 1e-9).astype(np.int64) for length in size]
    starts = [
        ((length - side) * draws.random(count)).astype(np.int64) for length, side in zip(size, sides, strict=True)
    ]
    return np.stack([*starts, *sides, (draws.random(count) < 0.5).astype(np.int64)], 1)


def light(draws: np.random.Generator) -> np.ndarray | None:
    """Change of the light of a step's photos, float32 [5] for `_warp.relight`; None: they stay as they are.

    torchvision's blur has three taps. A wider Gaussian of the same variance stands in for it.
    """
    jittered, grey, blurred = (draws.random() < CHANCES[name] for name in ("jitter", "grey", "blur"))
    factors, turn = draws.uniform(1 - JITTER, 1 + JITTER, 3), draws.uniform(-HUE, HUE)
    side = math.exp(-0.5 / draws.uniform(*SIGMA) ** 2)
    sigma = math.sqrt(2 * side / (1 + 2 * side))
    if not (jittered or grey or blurred):
        return None
    found = np.array([*(factors if jittered else np.ones(3)), turn if jittered else 0.0, sigma if blurred else 0.0])
    if grey:
        found[2], found[3] = 0.0, 0.0
    return found.astype(np.float32)


def photos(x: torch.Tensor, crops: torch.Tensor, size: tuple[int, int], change: np.ndarray | None) -> torch.Tensor:
    """Photos [n, 3, H, W] of 0..255, with another light, cropped, resized to `size` and mirrored."""
    if change is not None:
        x = _warp.relight(x, torch.from_numpy(change).to(x.device).expand(len(x), 5))
    parts = []
    for photo, (top, left, height, width, mirrored) in zip(x, crops.tolist(), strict=True):
        part = photo[None, :, top : top + height, left : left + width]
        part = interpolate(part, size, mode="bilinear", align_corners=False)
        parts.append(part.flip(3) if mirrored else part)
    return torch.cat(parts)


def aligned(masks: np.ndarray, crop: np.ndarray, size: tuple[int, int], cells: tuple[int, int]) -> np.ndarray:
    """RoIAlign of masks [k, h, w] in a crop [5] of a photo of `size`, on `cells`, mirrored: [k, *cells] float32."""
    rows, columns = (
        _averages(masks.shape[1 + axis], crop[axis] / size[axis], crop[2 + axis] / size[axis], cells[axis])
        for axis in range(2)
    )
    found = np.einsum("ah,khw,bw->kab", rows, masks, columns, optimize=True)
    return np.asarray(found[:, :, ::-1] if crop[4] else found, np.float32)


def _averages(cells: int, start: float, length: float, bins: int) -> np.ndarray:
    """Weights [bins, cells] of the mean of bilinear samples in each of `bins` equal parts of a stretch of a side.

    Start and length are shares of the side. As RoIAlign has it, a bin has as many samples as it has cells, rounded up.
    """
    width = length * cells / bins
    samples = max(1, math.ceil(width - 1e-9))
    offsets = (np.arange(samples) + 0.5) / samples
    at = start * cells - 0.5 + (np.arange(bins)[:, None] + offsets) * width  # [bins, samples], in cells
    at = np.clip(at, 0, cells - 1)
    weights = np.clip(1 - np.abs(at[..., None] - np.arange(cells)), 0, None)
    return np.asarray(weights.mean(1))


def targets(masks: np.ndarray, threshold: float | None) -> np.ndarray:
    """Pseudo masks [k, h, w] in 0..1, from the smallest to the largest of the crop; masks all alike are 0.

    With a threshold there is a background before them: what the largest mask lacks to the threshold.
    """
    low, high = masks.min(), masks.max()
    scaled = (masks - low) / max(float(high - low), 1e-12)
    if threshold is None:
        return np.asarray(scaled, np.float32)
    background = np.clip(threshold - scaled.max(0, keepdims=True), 0, None)
    return np.concatenate([background, scaled]).astype(np.float32)


class Batches:
    """The micro-batches of a step: photos uint8, crops, targets [n, k, h, w], and what foreground is divided by [n].

    Args:
        cells: the grid of a crop. threshold: see `targets`.
    """

    def __init__(
        self, images: FrozenPhotos, masks: PseudoMasks, params: Params, cells: tuple[int, int], training: HeadTraining
    ) -> None:
        self.images, self.masks, self.params, self.cells, self.training = images, masks, params, cells, training
        self.threshold = None if params.stuff else params.threshold

    def __call__(self, step: int) -> list[tuple[np.ndarray, ...]]:
        """What step `step` learns from; a function of the seed and the step."""
        size, seed = self.params.batch_size, self.training.seed
        places = order(step, size, len(self.images), seed)
        crops = draw(self.images.size, size, rng(seed, "adapt", "crops", str(step)))
        x = stack(self.images.several(places))
        wanted = np.stack([self._target(i, crop) for i, crop in zip(places, crops, strict=True)])
        share = np.full(size, self._share(wanted), np.float32)
        each = MICRO[self.training.device.type]
        return [tuple(part[at : at + each] for part in (x, crops, wanted, share)) for at in range(0, size, each)]

    def _target(self, i: int, crop: np.ndarray) -> np.ndarray:
        return targets(aligned(self.masks[i], crop, self.images.size, self.cells), self.threshold)

    def _share(self, wanted: np.ndarray) -> float:
        """Photos of the batch over its cells of foreground, so that a sum over these becomes a mean over all of them.

        Without a background every cell counts.
        """
        if self.threshold is None:
            return 1.0 / math.prod(self.cells)
        return len(wanted) / max(1, int(foreground(torch.from_numpy(wanted), self.threshold).sum()))


def foreground(targets: torch.Tensor, threshold: float | None) -> torch.Tensor:
    """Cells bool [n, h, w] where some class is above the threshold; all of them where there is no background."""
    if threshold is None:
        return torch.ones_like(targets[:, 0], dtype=torch.bool)
    return targets[:, 1:].amax(1) > threshold

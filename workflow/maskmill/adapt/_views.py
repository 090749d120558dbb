"""Two views of an image: what is drawn for it in an epoch, as arrays; `_warp` applies it.

Geometry (mirror, crop, resize) is that of the papers, on the grid instead of the photo. The colours of a stored token
can not be changed, so another augmentation replaces the photometric jitter: every view hides some channels, and scales
and shifts the others for the whole image, as a change of brightness or contrast would move all of its tokens together.
With `unfreeze` the views are of photos, whose light and sharpness are changed as in the papers. What is drawn depends
on (seed, pass over the images, image) only: whenever an image comes again its views are new ones, and a clustering and
the training after it see the same views of the same steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from maskmill.adapt._data import order, stack
from maskmill.numerics.sampling import rng
from maskmill.recipe.base import Model

if TYPE_CHECKING:
    import torch

    from maskmill.adapt._data import Images
    from maskmill.adapt._training import HeadTraining


CHANCE = 0.8  # of each change of a photo's light
SIGMA = (0.1, 2.0)  # of a blur, in pixels of the view


class ViewParams(Model):
    """Settings of two views, of the small head and of its training."""

    unfreeze: bool = Field(False, description="train the backbone too, on photos instead of stored tokens")
    backbone_rate: float = Field(1e-4, gt=0, description="unfreeze: learning rate of the backbone")
    light: float = Field(0.3, ge=0, lt=1, description="unfreeze: largest change of brightness, contrast, saturation "
                         "of a view; a third of it for the hue")  # fmt: skip
    blur: float = Field(0.5, ge=0, le=1, description="unfreeze: chance that a view is blurred")

    dimensions: int = Field(128, ge=1, le=4096, description="length of a feature of the head")
    hidden: int = Field(256, ge=0, le=8192, description="width of the head's two-layer branch; 0: a linear head")
    scale: float = Field(0.5, gt=0, le=1, description="side of a view as a share of the stored grid's")
    smallest_crop: float = Field(0.5, gt=0, le=1, description="smallest side of a crop, a share of the grid's; 1: none")
    flip: bool = Field(True, description="mirror half of the images")
    hide: float = Field(0.1, ge=0, lt=1, description="share of the channels that a view hides")
    jitter: float = Field(0.1, ge=0, le=1, description="deviation of a channel's scale in a view, and of its shift")
    epoch_steps: int = Field(0, ge=0, description="steps of an epoch; 0: as many as show every image once, for mdc and "
                             "picie at least those that move the weights as far as a published epoch")  # fmt: skip
    steps: int = Field(5000, ge=1, description="optimiser steps")
    batch_size: int = Field(128, ge=1, description="images a step")
    learning_rate: float = Field(1e-4, gt=0, description="Adam")


class SelfLabelParams(ViewParams):
    """The same, and the settings of the clustering at the start of every epoch."""

    balance: bool = Field(True, description="weigh a class by its cluster's share, as published; false: all alike")
    init_batches: int = Field(20, ge=1, description="batches that k-means starts from; later ones move its centroids")
    init_points: int = Field(50_000, ge=256, description="most points that k-means starts from, even over its batches")
    iterations: int = Field(20, ge=1, description="Lloyd iterations of that start")


def span(images: int, params: ViewParams) -> int:
    """Steps of an epoch that shows every image once, or as many as are asked for."""
    return params.epoch_steps or -(-images // params.batch_size)


def batch(images: Images, params: ViewParams, training: HeadTraining, step: int) -> tuple[np.ndarray, ...]:
    """Maps [n, d, h, w], boxes [n, 4] and changes of a step's images, see `draw`; shifts of channels in units of x."""
    items = order(step, params.batch_size, len(images), training.seed)
    turns = [place // len(images) for place in range(step * params.batch_size, (step + 1) * params.batch_size)]
    x = stack(images.several(items))
    boxes, changes = draw(items, turns, images.depth, params, training.seed)
    if not params.unfreeze:
        changes[:, :, 1] *= x.astype(np.float32, copy=False).std((2, 3))[:, None]
    return x, boxes, changes


def draw(
    items: Sequence[int], turns: Sequence[int], depth: int, params: ViewParams, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """What makes the views of these images, float32.

    Args:
        turns: for each of the images, how many times all images have been seen before.

    Returns:
        boxes [n, 4]: top, left and side of the crop in shares of the grid's sides, and 1 where it is mirrored.
        changes: of tokens [n, view, 2, d], factor of every channel (0: hidden), and shift in deviations of the channel;
            of photos (`unfreeze`) [n, view, 5], see `_lights`.
    """
    boxes = np.empty((len(items), 4), np.float32)
    changes = []
    for row, (item, turn) in enumerate(zip(items, turns, strict=True)):
        draws = rng(seed, "views", str(turn), str(item))
        side = draws.uniform(params.smallest_crop, 1)
        top, left = (1 - side) * draws.random(2)
        boxes[row] = top, left, side, params.flip and draws.random() < 0.5
        changes.append(_lights(draws, params) if params.unfreeze else _gains(draws, depth, params))
    return boxes, np.stack(changes).astype(np.float32)


def _gains(draws: np.random.Generator, depth: int, params: ViewParams) -> np.ndarray:
    """Factors and shifts of the channels [view, 2, d]."""
    kept = (draws.random((2, depth)) >= params.hide) / (1 - params.hide)
    noise = params.jitter * draws.standard_normal((2, 2, depth))
    return np.stack([kept * (1 + noise[0]), kept * noise[1]], axis=1)


def _lights(draws: np.random.Generator, params: ViewParams) -> np.ndarray:
    """Factors of brightness, contrast and saturation, turns of the hue, and deviation of the blur [view, 5]."""
    size = params.light * np.array([1, 1, 1, 1 / 3])
    change = np.where(draws.random((2, 4)) < CHANCE, draws.uniform(-1, 1, (2, 4)) * size, 0)
    sigma = np.where(draws.random(2) < params.blur, draws.uniform(*SIGMA, 2), 0)
    return np.concatenate([change + np.array([1, 1, 1, 0]), sigma[:, None]], axis=1)


def size(x: torch.Tensor, scale: float, multiple: int = 1) -> tuple[int, int]:
    """Rows and columns of a view of maps [n, d, h, w]: whole multiples, at least two a side."""
    h, w = (round(side * scale / multiple) for side in x.shape[-2:])
    return max(2, h) * multiple, max(2, w) * multiple

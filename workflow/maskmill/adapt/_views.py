"""Two views of stored tokens: what is drawn for an image in an epoch, as arrays; `_warp` applies it.

Geometry (mirror, crop, resize) is that of the papers, on the grid instead of the photo. Tokens do not see colours, so
the photometric jitter has a stand-in: every view hides some channels, and scales and shifts the others for the whole
image, as a change of brightness or contrast would move all of its tokens together. What is drawn depends on (seed,
epoch, image) only, so that a clustering and the training after it see the same views.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from maskmill.adapt._data import order, stack
from maskmill.config import Model
from maskmill.sampling import rng

if TYPE_CHECKING:
    import torch

    from maskmill.adapt._data import TokenImages
    from maskmill.adapt._job import Job


class ViewParams(Model):
    """Settings of two views, of the small head and of its training."""

    dimensions: int = Field(128, ge=1, le=4096, description="length of a feature of the head")
    hidden: int = Field(256, ge=0, le=8192, description="width of the head's two-layer branch; 0: a linear head")
    scale: float = Field(0.5, gt=0, le=1, description="side of a view as a share of the stored grid's")
    smallest_crop: float = Field(0.5, gt=0, le=1, description="smallest side of a crop, a share of the grid's; 1: none")
    flip: bool = Field(True, description="mirror half of the images")
    hide: float = Field(0.1, ge=0, lt=1, description="share of the channels that a view hides")
    jitter: float = Field(0.1, ge=0, le=1, description="deviation of a channel's scale in a view, and of its shift")
    epoch_steps: int = Field(0, ge=0, description="steps of an epoch; 0: as many as show every image once")
    steps: int = Field(5000, ge=1, description="optimiser steps")
    batch_size: int = Field(128, ge=1, description="images a step")
    learning_rate: float = Field(1e-4, gt=0, description="Adam")


class SelfLabelParams(ViewParams):
    """The same, and the settings of the clustering at the start of every epoch."""

    init_batches: int = Field(20, ge=1, description="batches that k-means starts from; later ones move its centroids")
    init_points: int = Field(50_000, ge=256, description="most points that k-means starts from, even over its batches")
    iterations: int = Field(20, ge=1, description="Lloyd iterations of that start")


def span(images: int, params: ViewParams) -> int:
    """Steps of an epoch."""
    return params.epoch_steps or -(-images // params.batch_size)


def batch(images: TokenImages, params: ViewParams, job: Job, step: int, length: int) -> tuple[np.ndarray, ...]:
    """Tokens [n, d, h, w], boxes [n, 4] and gains [n, 2, 2, d] of a step's images, see `draw`; shifts in units of x.

    Args:
        length: steps of an epoch; within one, an image has one pair of views.
    """
    items = order(step, params.batch_size, len(images), job.seed)
    x = stack([images[i] for i in items])
    boxes, gains = draw(items, step // length, images.depth, params, job.seed)
    gains[:, :, 1] *= x.std((2, 3))[:, None]
    return x, boxes, gains


def draw(items: Sequence[int], epoch: int, depth: int, params: ViewParams, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """What makes the views of these images in an epoch, float32.

    Returns:
        boxes [n, 4]: top, left and side of the crop in shares of the grid's sides, and 1 where it is mirrored.
        gains [n, view, 2, d]: factor of every channel (0: hidden), and shift in deviations of the channel.
    """
    boxes = np.empty((len(items), 4), np.float32)
    gains = np.empty((len(items), 2, 2, depth), np.float32)
    for row, item in enumerate(items):
        draws = rng(seed, "views", str(epoch), str(item))
        side = draws.uniform(params.smallest_crop, 1)
        top, left = (1 - side) * draws.random(2)
        boxes[row] = top, left, side, params.flip and draws.random() < 0.5
        kept = (draws.random((2, depth)) >= params.hide) / (1 - params.hide)
        noise = params.jitter * draws.standard_normal((2, 2, depth))
        gains[row, :, 0] = kept * (1 + noise[0])
        gains[row, :, 1] = kept * noise[1]
    return boxes, gains


def size(x: torch.Tensor, scale: float) -> tuple[int, int]:
    """Rows and columns of a view of maps [n, d, h, w], at least two a side."""
    h, w = x.shape[-2:]
    return max(2, round(h * scale)), max(2, round(w * scale))

"""Leopart: a network whose tokens name object parts, learnt by clustering the tokens of what two crops both show.

Ziegler and Asano, Self-supervised learning of object parts for semantic segmentation (CVPR 2022), sections 3.1 and 3.2.
A teacher, the moving average of the student, assigns the tokens of each global crop softly to prototypes, in equal
parts by Sinkhorn's iterations. The student predicts these assignments from every other crop: both maps are read with
RoIAlign where the two crops overlap, and only what the teacher's cls token attends to counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from maskmill.errors import ConfigError
from maskmill.pretrain import Traits
from maskmill.pretrain._overlap import overlapping_boxes
from maskmill.pretrain._settings import TrainingParams

if TYPE_CHECKING:
    from maskmill.backbones.learning import Learning
    from maskmill.pretrain._views import CropSpec
    from maskmill.pretrain.leopart.learner import Leopart

TRAITS = Traits(dense=True)
WHOLE = 2  # global crops, each of which the other crops predict


class Params(TrainingParams):
    """Settings of Leopart; the defaults are those of its training on ImageNet-100 (ViT-S/16, two GPUs)."""

    steps: int = Field(98_950, ge=1, description="optimiser steps; published: 50 epochs of ImageNet-100")
    batch_size: int = Field(64, ge=2, description="photos a step, over all processes")
    learning_rate: float = Field(1e-5, gt=0, description="of the backbone, at the first step")
    head_rate: float = Field(1e-4, gt=0, description="learning rate of projection and prototypes, at the first step")
    final_rate: float = Field(0.0, ge=0, description="at the last step, on a cosine")
    warmup: float = Field(0.0, ge=0, lt=1, description="share of the steps in which the rate rises; published: none")
    weight_decay: float = Field(0.04, ge=0, description="at the first step; not of biases, norms and positions")
    final_weight_decay: float | None = Field(0.5, ge=0, description="at the last step, on a cosine; null: the same")
    clip: float = Field(100.0, gt=0, description="largest norm of a step's gradient; published: none")
    drop_path: float = Field(0.1, ge=0, lt=1, description="stochastic depth of the student")
    prototypes: int = Field(300, ge=2, description="parts that are told apart while learning")
    dimensions: int = Field(256, ge=2, description="length of an embedding that prototypes are compared with")
    hidden: int = Field(2048, ge=1, description="width of the two hidden layers of the projection")
    temperature: float = Field(0.1, gt=0, description="of the student's softmax")
    epsilon: float = Field(0.05, gt=0, description="of the teacher's scores before Sinkhorn; small: hard assignments")
    iterations: int = Field(3, ge=1, description="Sinkhorn's iterations")
    queue: int = Field(8192, ge=0, description="earlier embeddings that take part in Sinkhorn, of each global crop")
    queued: int = Field(10, ge=1, description="embeddings that a photo adds to each queue, on average")
    align: int = Field(7, ge=1, description="cells a side in which two crops are compared where they overlap")
    teacher_momentum: float = Field(0.9995, ge=0, le=1, description="of the teacher's average, at the first step")
    final_teacher_momentum: float = Field(1.0, ge=0, le=1, description="at the last step, on a cosine")
    foreground: Literal["attention", "all"] = Field(
        "attention", description="places that count: attention (of the teacher's cls token; ViTs only), or all"
    )
    mass: float = Field(0.6, gt=0, lt=1, description="share of the attention that the foreground holds")
    sigma: float = Field(0.6, ge=0, le=10, description="Gaussian over the attention, in tokens, 7x7; 0: none")
    least: int = Field(3, ge=1, description="connected parts of the foreground with fewer tokens are dropped")
    global_side: int = Field(224, ge=16, description="side of the two global crops, in pixels")
    local_side: int = Field(96, ge=16, description="side of the local crops, in pixels")
    local_crops: int = Field(4, ge=0, description="local crops of a photo")
    global_scale: tuple[float, float] = Field((0.25, 1.0), description="area of a global crop in shares of the photo")
    local_scale: tuple[float, float] = Field((0.05, 0.25), description="area of a local crop in shares of the photo")
    overlap: float = Field(
        0.01, ge=0, lt=0.25, description="least intersection with a global crop in shares of the photo; globals: twice"
    )


def views(params: Params) -> tuple[CropSpec, ...]:
    """Two global crops and the local ones. None is mirrored: tokens are compared place by place."""
    from maskmill.pretrain._light import Light
    from maskmill.pretrain._views import CropSpec

    light = Light(jitter=(0.8, 0.8, 0.8, 0.2), jitter_chance=0.8, grey=0.2, blur=0.5, blur_sigma=(0.1, 2.0))
    whole = CropSpec(side=params.global_side, scale=params.global_scale, flip=0.0, light=light)
    part = CropSpec(side=params.local_side, scale=params.local_scale, flip=0.0, light=light)
    return (whole,) * WHOLE + (part,) * params.local_crops


def draw(params: Params, height: int, width: int, generator: np.random.Generator) -> np.ndarray:
    """Boxes [crops, 4] of a photo, all of which meet both global crops."""
    scales = [params.global_scale] * WHOLE + [params.local_scale] * params.local_crops
    return overlapping_boxes((height, width), scales, WHOLE, params.overlap, generator)


def build(network: Learning, params: Params, photos: int) -> Leopart:
    """The untrained learner around a network.

    Raises:
        ConfigError: a network without a cls token whose attention is wanted, or crops that its patches do not fill.
    """
    if params.foreground == "attention" and network.heads is None:
        raise ConfigError(
            "pretrain: foreground: attention needs a ViT with a cls token and plain attention; set foreground: all, or "
            "name another backbone"
        )
    for name in ("global_side", "local_side"):
        side = getattr(params, name)
        if network.is_vit and side % network.stride:
            near = max(1, round(side / network.stride)) * network.stride
            raise ConfigError(
                f"pretrain: {name}: {side} is no multiple of the patch size {network.stride} of the backbone; "
                f"set {name}: {near}"
            )
    from maskmill.pretrain.leopart.learner import Leopart

    return Leopart(network, params)

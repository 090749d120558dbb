"""NeCo: the patches of two crops order the patches of other photos alike.

Pariza, Salehi, Burghouts, Locatello and Asano, "Near, far: patch-ordering enhances vision foundation models' scene
understanding" (ICLR 2025). A student learns from its moving average. Where two crops of a photo overlap, both networks'
projected tokens are read on one grid (RoIAlign). Every cell has cosines with reference patches, most of them of other
photos, and a differentiable sorting network turns them into shares of the places of an order; the student's shares
learn the teacher's by cross-entropy, for both global crops of the teacher against all other crops of the student. It is
a short training that starts from good weights, not from scratch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from maskmill.pretrain import Traits
from maskmill.pretrain._settings import TrainingParams

if TYPE_CHECKING:
    import numpy as np

    from maskmill.backbones.learning import Learning
    from maskmill.pretrain._learner import Learner
    from maskmill.pretrain._views import CropSpec

TRAITS = Traits(dense=True)
GLOBAL = 2  # crops that the teacher sees


class Params(TrainingParams):
    """Settings. Defaults: DINOv2 ViT-S/14 on COCO (25 passes over its 118 287 photos)."""

    global_side: int = Field(518, ge=16, description="of the two global crops, pixels")
    global_scale: tuple[float, float] = Field((0.25, 1.0), description="share of the photo that a global crop has")
    local_crops: int = Field(4, ge=0, description="of every photo, which only the student sees")
    local_side: int = Field(98, ge=16, description="of the local crops, pixels")
    local_scale: tuple[float, float] = Field((0.05, 0.25), description="share of the photo that a local crop has")
    overlap: float = Field(
        0.01, ge=0, lt=0.25, description="least intersection with a global crop in shares of the photo; globals: twice"
    )
    align: int = Field(7, ge=2, le=8, description="cells a side in which two crops are read where they overlap")
    network: Literal["bitonic", "odd_even"] = Field("bitonic", description="the sorting network")
    relaxation: Literal["cauchy", "logistic"] = Field("cauchy", description="of its comparators")
    steepness: float = Field(100.0, gt=0, description="of the student's comparators")
    teacher_steepness: float = Field(100.0, gt=0, description="of the teacher's comparators")
    distance: Literal["cosine", "euclidean"] = Field("cosine", description="of a patch and a reference")
    queue: int = Field(8192, ge=0, description="earlier patches that references are drawn from; 0: those of the batch")
    queued: int = Field(10, ge=1, description="patches of a photo that enter the queue")
    hidden: int = Field(2048, ge=1, description="width of the projector's inner layers")
    dimensions: int = Field(256, ge=1, description="length of a projected token")
    teacher_head: Literal["own", "copied"] = Field(
        "own", description="random weights of the teacher's projector: of its own as published, or the student's"
    )
    teacher_momentum: float = Field(0.9995, ge=0, le=1, description="of the moving average at the first step")
    final_teacher_momentum: float = Field(1.0, ge=0, le=1, description="at the last step, on a cosine")
    head_rate: float = Field(1e-4, gt=0, description="learning rate of the projector, at the first step")
    steps: int = Field(46_200, ge=1, description="optimiser steps")
    batch_size: int = Field(64, ge=2, description="photos a step, over all processes")
    micro_batch: int = Field(16, ge=2, description="photos that are computed at once")
    learning_rate: float = Field(1e-5, gt=0, description="of the network, at the first step")
    final_rate: float = Field(0.0, ge=0, description="at the last step, on a cosine")
    warmup: float = Field(0.0, ge=0, lt=1, description="share of the steps in which the rate rises")
    weight_decay: float = Field(0.04, ge=0, description="at the first step")
    final_weight_decay: float | None = Field(0.5, ge=0, description="at the last step, on a cosine")
    clip: float = Field(1e4, gt=0, description="largest norm of a step's gradient; published: no limit")
    drop_path: float = Field(0.1, ge=0, lt=1, description="stochastic depth of the student")


def views(params: Params) -> tuple[CropSpec, ...]:
    """Two global crops, then the local ones; none is mirrored."""
    from maskmill.pretrain._light import Light
    from maskmill.pretrain._views import CropSpec

    light = Light(jitter=(0.8, 0.8, 0.8, 0.2))
    whole = CropSpec(side=params.global_side, scale=params.global_scale, flip=0.0, light=light)
    local = CropSpec(side=params.local_side, scale=params.local_scale, flip=0.0, light=light)
    return (whole,) * GLOBAL + (local,) * params.local_crops


def draw(params: Params, height: int, width: int, generator: np.random.Generator) -> np.ndarray:
    """Boxes [crops, 4] in shares of the photo, each of which meets both global ones."""
    from maskmill.pretrain._overlap import overlapping_boxes

    scales = [params.global_scale] * GLOBAL + [params.local_scale] * params.local_crops
    return overlapping_boxes((height, width), scales, GLOBAL, params.overlap, generator)


def build(network: Learning, params: Params, photos: int) -> Learner:
    """The learner; a teacher with a copy of the network."""
    from maskmill.pretrain.neco._learner import NeCo

    return NeCo(network, params)

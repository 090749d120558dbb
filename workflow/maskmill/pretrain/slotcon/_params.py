"""Settings of SlotCon."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from maskmill.pretrain._settings import Shares, TrainingParams


class Params(TrainingParams):
    """Settings. Defaults: ResNet-50 on COCO, 800 passes over its 118 287 photos."""

    side: int = Field(224, ge=32, description="of the two crops, pixels")
    scale: Shares = Field((0.08, 1.0), description="share of the photo that a crop has")
    overlap: float = Field(
        0.01, ge=0, lt=1, description="share of the second crop that lies in the first one; ten draws"
    )
    prototypes: int = Field(256, ge=2, description="groups of all photos")
    hidden: int = Field(4096, ge=1, description="width of the inner layers of projector and predictor")
    dimensions: int = Field(256, ge=1, description="length of a projected token, a prototype and a slot")
    student_temperature: float = Field(0.1, gt=0, description="of the student's shares")
    teacher_temperature: float = Field(0.07, gt=0, description="of the teacher's shares, and of those that make slots")
    contrast_temperature: float = Field(0.2, gt=0, description="of the contrast of slots")
    centre_momentum: float = Field(
        0.9, ge=0, le=1, description="of the mean of the teacher's scores, which are centred"
    )
    grouping_weight: float = Field(0.5, ge=0, le=1, description="of the grouping; the rest is the contrast's")
    network_rate: float = Field(
        1.0, gt=0, description="the network's share of the rate; below 1 where it starts from good weights"
    )
    teacher_momentum: float = Field(
        0.99, ge=0, le=1, description="of the moving average at the first step; 1 at the end"
    )
    steps: int = Field(184_800, ge=1, description="optimiser steps")
    batch_size: int = Field(512, ge=2, description="photos a step, over all processes")
    micro_batch: int = Field(64, ge=2, description="photos that are computed at once, and that a batch norm sees")
    learning_rate: float = Field(2.0, gt=0, description="the highest one, of this batch size")
    final_rate: float = Field(1e-6, ge=0, description="at the last step, on a cosine")
    warmup: float = Field(0.00625, ge=0, lt=1, description="share of the steps in which the rate rises")
    weight_decay: float = Field(1e-5, ge=0, description="not of biases, norms and positions")
    clip: float = Field(1e4, gt=0, description="largest norm of a step's gradient; published: no limit")
    optimiser: Literal["adamw", "adam", "sgd", "lars", "larc"] = Field("lars", description="lars is the published one")

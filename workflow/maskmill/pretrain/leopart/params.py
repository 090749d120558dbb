"""Settings of Leopart."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from maskmill.pretrain._settings import Shares, TrainingParams, check_overlap

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
    clip: float = Field(1e6, gt=0, description="largest norm of a step's gradient; published: none")
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
    crop: int = Field(224, ge=16, description="side of the two global crops, in pixels")
    local_crop: int = Field(96, ge=16, description="side of the local crops, in pixels")
    local_crops: int = Field(4, ge=0, description="local crops of a photo")
    scale: Shares = Field((0.25, 1.0), description="area of a global crop in shares of the photo")
    local_scale: Shares = Field((0.05, 0.25), description="area of a local crop in shares of the photo")
    overlap: float = Field(
        0.01, ge=0, lt=0.25, description="least intersection with a global crop in shares of the photo; globals: twice"
    )

    @model_validator(mode="after")
    def _crops_can_meet(self) -> Params:
        check_overlap(self.overlap, self.scale, self.local_scale, self.local_crops)
        return self

"""Settings of NeCo."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from maskmill.pretrain._settings import Shares, TrainingParams, check_overlap

GLOBAL = 2  # crops that the teacher sees


class Params(TrainingParams):
    """Settings. Defaults: DINOv2 ViT-S/14 on COCO (25 passes over its 118 287 photos)."""

    global_side: int = Field(518, ge=16, description="of the two global crops, pixels")
    global_scale: Shares = Field((0.25, 1.0), description="share of the photo that a global crop has")
    local_crops: int = Field(4, ge=0, description="of every photo, which only the student sees")
    local_side: int = Field(98, ge=16, description="of the local crops, pixels")
    local_scale: Shares = Field((0.05, 0.25), description="share of the photo that a local crop has")
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

    @model_validator(mode="after")
    def _crops_can_meet(self) -> Params:
        check_overlap(self.overlap, self.global_scale, self.local_scale, self.local_crops)
        return self

"""Settings of the student `freesolo`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from maskmill.recipe.base import Model
from maskmill.recipe.feature_set import Size

LEVELS = 5  # grids of SOLOv2


class Params(Model):
    """Settings of the network, of its training, of what it learns from and of what it predicts."""

    encoder: str = Field("grouping", description="feature set that names the encoder's backbone (a CNN or a plain ViT)")
    unfrozen: int = Field(0, ge=0, le=64, description="last levels (ViT: blocks) of the encoder that learn; 0: none")
    encoder_rate: float = Field(1.0, gt=0, le=1, description="learning rate of the encoder, as a share of the rest's")
    width: int = Field(256, ge=32, le=1024, multiple_of=16, description="channels of pyramid and head")
    layers: int = Field(4, ge=0, le=8, description="3x3 convolutions of the head, for objects and for kernels each")
    kernels: int = Field(256, ge=16, le=1024, multiple_of=16, description="channels of mask features and kernels")
    grids: list[int] = Field(
        default_factory=lambda: [40, 36, 24, 16, 12], description="cells a side of the five grids, small objects first"
    )
    steps: int = Field(30_000, ge=1, description="optimiser steps a round")
    batch_size: int = Field(16, ge=1, description="crops a step")
    crop: int = Field(448, ge=32, le=2048, description="side of a training crop in pixels, rounded to whole patches")
    scale: tuple[float, float] = Field((0.25, 1.0), description="from and to: share of a photo's area in a crop")
    jitter: float = Field(0.0, ge=0, lt=1, description="brightness, contrast; half for saturation, a quarter for hue")
    grey: float = Field(0.0, ge=0, le=1, description="chance that a crop is grey")
    blur: float = Field(0.0, ge=0, le=1, description="chance that a crop is blurred")
    alpha: float = Field(0.25, gt=0, lt=1, description="focal loss: weight of objects; the rest has 1 - alpha")
    gamma: float = Field(2.0, ge=0, le=10, description="focal loss: cells weigh (1 - p) ** gamma")
    extent_weight: float = Field(1.0, ge=0, le=100, description="weight of the dice of the masks' maxima in x and y")
    mean_weight: float = Field(0.1, ge=0, le=100, description="weight of the dice of the masks' means in x and y")
    pair_weight: float = Field(1.0, ge=0, le=100, description="weight of what neighbours of one colour disagree on")
    alike: float = Field(0.3, gt=0, le=1, description="neighbours are of one colour from this similarity on")
    pair_steps: int = Field(
        1000, ge=1, description="steps over which pair_weight rises from 0; a few dozen make masks the whole photo"
    )
    optimiser: Literal["adamw", "sgd"] = Field("adamw", description="sgd: momentum 0.9")
    learning_rate: float = Field(1e-3, gt=0, description="after the warm-up")
    weight_decay: float = Field(1e-4, ge=0, description="of the optimiser")
    schedule: Literal["cosine", "step", "constant"] = Field(
        "constant", description="of the learning rate, after a warm-up; step: x 0.02 from half of the steps on"
    )
    ema: float = Field(0.0, ge=0, lt=1, description="the student is a moving average with this decay; 0: last weights")
    keep_score: float = Field(0.3, ge=0, le=1, description="from round 2: predictions below are not learnt from")
    merge_iou: float = Field(
        0.0,
        ge=0,
        le=1,
        description="from round 2: old instances that overlap a kept prediction as much are replaced; 0: all",
    )
    size: Size = Field(default_factory=lambda: Size(short_side=480), description="of the photos that are predicted")
    upsample: int = Field(2, ge=1, le=4, description="mask cells a side for each of the logits, which lie 4 px apart")
    detections: int = Field(100, ge=1, le=1000, description="instances of an image, at most")
    least_score: float = Field(0.05, ge=0, lt=1, description="instances below are not written")
    paint_score: float = Field(
        0.3, ge=0, le=1, description="instances that masks are painted from; the single best where none scores as much"
    )
    cache_mib: int = Field(1024, ge=0, description="instances are held in memory when they fit in this")

    @field_validator("grids")
    @classmethod
    def _five(cls, value: list[int]) -> list[int]:
        if len(value) != LEVELS or not all(1 <= cells <= 128 for cells in value):
            raise ValueError(f"expected {LEVELS} numbers of cells from 1 to 128, found {value}")
        return value

    @model_validator(mode="after")
    def _shares(self) -> Params:
        low, high = self.scale
        if not 0 < low <= high <= 1:
            raise ValueError(f"scale: expected 0 < from <= to <= 1, found {[low, high]}")
        return self

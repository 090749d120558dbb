"""Settings of the instance student."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from maskmill.recipe.base import Model
from maskmill.recipe.feature_set import Size


class Params(Model):
    """Settings of the network, of its training, of what it learns from and of what it predicts."""

    encoder: str = Field("grouping", description="feature set that names the encoder's backbone (a CNN or a plain ViT)")
    unfrozen: int = Field(0, ge=0, le=64, description="last levels (ViT: blocks) of the encoder that learn; 0: none")
    encoder_rate: float = Field(0.1, gt=0, le=1, description="learning rate of the encoder, as a share of the rest's")
    width: int = Field(128, ge=32, le=1024, multiple_of=16, description="channels of pyramid and head")
    layers: int = Field(2, ge=0, le=8, description="3x3 convolutions of the head, for classes and for kernels each")
    steps: int = Field(20_000, ge=1, description="optimiser steps a round")
    batch_size: int = Field(16, ge=1, description="crops a step")
    crop: int = Field(448, ge=32, le=2048, description="side of a training crop in pixels, rounded to whole patches")
    scale: tuple[float, float] = Field((0.25, 1.0), description="from and to: share of a photo's area in a crop")
    jitter: float = Field(0.0, ge=0, lt=1, description="brightness, contrast; half for saturation, a quarter for hue")
    grey: float = Field(0.0, ge=0, le=1, description="chance that a crop is grey")
    blur: float = Field(0.0, ge=0, le=1, description="chance that a crop is blurred")
    copy_paste: float = Field(1.0, ge=0, le=1, description="chance that objects of another photo are pasted in")
    copy_scale: tuple[float, float] = Field(
        (0.3, 1.0), description="from and to: side of that photo, as a share of crop (CutLER: 0.5, 1 in self-training)"
    )
    drop_loss: float | None = Field(
        0.01,
        ge=0,
        lt=1,
        description="locations whose mask overlaps no object by more are no background; 0: off",
    )
    alpha: float = Field(0.5, gt=0, lt=1, description="focal loss: weight of objects; background has 1 - alpha")
    gamma: float = Field(2.0, ge=0, le=10, description="focal loss: locations weigh (1 - p) ** gamma")
    mask_weight: float = Field(2.0, gt=0, le=100, description="weight of dice and cross-entropy of the masks")
    optimiser: Literal["adamw", "sgd"] = Field("adamw", description="sgd: momentum 0.9")
    learning_rate: float = Field(1e-3, gt=0, description="after the warm-up")
    weight_decay: float = Field(5e-5, ge=0, description="of the optimiser")
    schedule: Literal["cosine", "step", "constant"] = Field(
        "cosine", description="of the learning rate, after a warm-up; step: x 0.02 from half of the steps on (CutLER)"
    )
    ema: float = Field(0.0, ge=0, lt=1, description="the student is a moving average with this decay; 0: last weights")
    keep_score: float = Field(0.7, ge=0, le=1, description="from round 2: predictions below are not learnt from")
    merge_iou: float = Field(
        0.5, ge=0, le=1, description="from round 2: old instances that overlap a kept prediction as much are replaced"
    )
    size: Size = Field(default_factory=lambda: Size(short_side=480), description="of the photos that are predicted")
    upsample: int = Field(2, ge=1, le=4, description="mask cells a side for each of the logits, which lie 4 px apart")
    detections: int = Field(100, ge=1, le=1000, description="instances of an image, at most")
    least_score: float = Field(0.05, ge=0, lt=1, description="instances below are not written")
    paint_score: float = Field(
        0.5, ge=0, le=1, description="instances that masks are painted from; the single best where none scores as much"
    )
    cache_mib: int = Field(1024, ge=0, description="instances are held in memory when they fit in this")

    @model_validator(mode="after")
    def _shares(self) -> Params:
        for name, (low, high) in {"scale": self.scale, "copy_scale": self.copy_scale}.items():
            if not 0 < low <= high <= 1:
                raise ValueError(f"{name}: expected 0 < from <= to <= 1, found {[low, high]}")
        return self

"""Settings of the student deeplabv3plus."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from maskmill.recipe.feature_set import Size
from maskmill.rounds._settings import Training

MOST = 4.0  # of scale and zoom


class Params(Training):
    """Settings of the network, of its training, and of the photos that it sees."""

    encoder: str = Field("semantic", description="feature set that names the encoder's backbone (a CNN)")
    unfrozen: int = Field(1, ge=0, le=16, description="last feature levels of the encoder that learn; 0: none")
    output_stride: Literal[8, 16, 32] = Field(8, description="pixels a cell of the encoder's last level (dilates)")
    width: int = Field(256, ge=32, le=2048, multiple_of=16, description="channels of pyramid and decoder")
    steps: int = Field(5000, ge=1, description="optimiser steps a round")
    batch_size: int = Field(96, ge=1, description="crops a step")
    crop: int = Field(224, ge=32, le=2048, multiple_of=32, description="side of a training crop in pixels")
    scale: tuple[float, float] = Field(
        (0.25, 1.0), description="from and to: share of a photo's area in a crop; to > 1: often the whole photo (COMUS)"
    )
    zoom: tuple[float, float] | None = Field(
        None, description="from and to: the whole photo at this size about its middle, in place of a crop (MaskDistill)"
    )
    rotation: float = Field(0.0, ge=0, le=180, description="with zoom: degrees that the photo is turned, at most")
    jitter: float = Field(0.4, ge=0, lt=1, description="brightness, contrast; half for saturation, a quarter for hue")
    grey: float = Field(0.2, ge=0, le=1, description="chance that a crop is grey")
    blur: float = Field(0.1, ge=0, le=1, description="chance that a crop is blurred")
    optimiser: Literal["adamw", "sgd"] = Field("adamw", description="sgd: momentum 0.9")
    learning_rate: float = Field(2e-4, gt=0, description="at the first step")
    weight_decay: float = Field(1e-8, ge=0, description="of the optimiser")
    schedule: Literal["poly", "cosine", "constant", "step"] = Field(
        "poly", description="of the learning rate; poly and cosine fall to 0"
    )
    power: float = Field(1.0, gt=0, le=10, description="schedule poly: (1 - step / steps) ** power; 1 is linear")
    step_at: float = Field(0.9, gt=0, lt=1, description="schedule step: share of the steps before the rate falls")
    step_factor: float = Field(0.1, gt=0, le=1, description="schedule step: what the rate is multiplied with then")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of the target spread evenly over all classes")
    balance: float = Field(
        0.0, ge=0, le=1, description="class weights ~ frequency ** -balance; 0 counts every cell alike"
    )
    size: Size = Field(default_factory=lambda: Size(short_side=320), description="of the photos that are predicted")
    upsample: int = Field(2, ge=1, le=4, description="mask cells a side for each of the logits, which lie 4 px apart")
    cache_mib: int = Field(1024, ge=0, description="masks are held in memory when they fit in this")

    @model_validator(mode="after")
    def _shares(self) -> Params:
        if not 0 < self.scale[0] <= min(1, self.scale[1]) or self.scale[1] > MOST:
            raise ValueError(f"scale: expected 0 < from <= 1, from <= to <= {MOST:g}, found {list(self.scale)}")
        if self.zoom is not None and not 0 < self.zoom[0] <= self.zoom[1] <= MOST:
            raise ValueError(f"zoom: expected 0 < from <= to <= {MOST:g}, found {list(self.zoom)}")
        if self.rotation and self.zoom is None:
            raise ValueError(f"rotation: {self.rotation:g} turns whole photos; set zoom too (1, 1 keeps their size)")
        return self

"""Multi-crop of SwAV: two large crops of a photo and several small ones, whose settings DeepCluster-v2 shares.

Caron, Misra, Mairal, Goyal, Bojanowski and Joulin (NeurIPS 2020), section 3.2; lights are those of
`src/multicropdataset.py` of its code, SimCLR's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from maskmill.pretrain._settings import Shares, TrainingParams

if TYPE_CHECKING:
    from maskmill.pretrain._views import CropSpec

LARGE = 2  # crops that are assigned to prototypes


class MultiCropParams(TrainingParams):
    """Settings of the crops, of the head and of the training. Defaults: the published run of 200 epochs, batch 256."""

    crop: int = Field(224, ge=16, le=1024, description="side of the two large crops, pixels")
    scale: Shares = Field((0.14, 1.0), description="their share of the photo's area, from and to")
    local_crop: int = Field(96, ge=16, le=1024, description="side of the small crops, pixels")
    local_scale: Shares = Field((0.05, 0.14), description="their share of the photo's area")
    local_crops: int = Field(6, ge=0, le=32, description="number of small crops")
    temperature: float = Field(0.1, gt=0, description="of the scores that are compared with the assignments")
    dimensions: int = Field(128, ge=2, le=4096, description="length of the vectors that are assigned")
    hidden: int = Field(2048, ge=1, le=16384, description="width of the head's hidden layer")
    steps: int = Field(1_000_800, ge=1, description="optimiser steps; published: 200 epochs of ImageNet")
    learning_rate: float = Field(0.6, gt=0, description="the highest one, of this batch size")
    final_rate: float = Field(0.0006, ge=0, description="at the last step, on a cosine")
    warmup: float = Field(0.0, ge=0, lt=1, description="share of the steps in which the rate rises to the highest one")
    weight_decay: float = Field(1e-6, ge=0, description="of all parameters")
    clip: float = Field(1e6, gt=0, description="largest norm of a step's gradient; published: none")
    optimiser: Literal["adamw", "adam", "sgd", "lars", "larc"] = Field("larc", description="see TrainingParams")


def crops(params: MultiCropParams) -> tuple[CropSpec, ...]:
    """The large crops, then the small ones."""
    from maskmill.pretrain._light import Light
    from maskmill.pretrain._views import CropSpec

    light = Light(jitter=(0.8, 0.8, 0.8, 0.2), jitter_chance=0.8, grey=0.2, blur=0.5, blur_sigma=(0.1, 2.0))
    large = CropSpec(side=params.crop, scale=params.scale, light=light)
    small = CropSpec(side=params.local_crop, scale=params.local_scale, light=light)
    return (large,) * LARGE + (small,) * params.local_crops

"""MaskContrast: pixels of an object against the mean of the same object in another view.

Van Gansbeke et al., "Unsupervised semantic segmentation by contrasting object mask proposals", ICCV 2021.
Section 3: two views of a photo; the embedding of every pixel of an object in the first is pulled to the object's
prototype in the second, which a momentum encoder sees, and away from the prototypes of other objects of the batch and
of a queue. A second head tells objects from the background. The paper's objects are the one mask that a saliency
network gives for each photo. Here they are the segments of the recipe's cut, of which a photo may have several.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field, model_validator

from maskmill.pretrain import Traits
from maskmill.pretrain._settings import Shares, TrainingParams

if TYPE_CHECKING:
    from maskmill.backbones.learning import Learning
    from maskmill.pretrain._learner import Learner
    from maskmill.pretrain._views import CropSpec

TRAITS = Traits(dense=True, segments=True)


class Params(TrainingParams):
    """The published settings of the unsupervised variant on PASCAL VOC."""

    steps: int = Field(3280, ge=1, description="optimiser steps; published: 40 epochs of 10 582 photos")
    batch_size: int = Field(128, ge=2, description="photos a step, over all processes")
    learning_rate: float = Field(0.004, gt=0, description="the highest one, of this batch size")
    final_rate: float = Field(0.0, ge=0, description="at the last step, on a cosine")
    warmup: float = Field(0.0, ge=0, lt=1, description="share of the steps in which the rate rises to the highest one")
    weight_decay: float = Field(1e-4, ge=0, description="of all parameters, as published")
    clip: float = Field(1e4, gt=0, description="largest norm of a step's gradient; published: none")
    optimiser: Literal["adamw", "adam", "sgd", "lars"] = Field("sgd", description="adamw, adam, sgd, or lars")

    crop: int = Field(224, ge=16, description="side of both views, pixels")
    scale: Shares = Field((0.2, 1.0), description="their share of the photo's area, from and to")
    dimensions: int = Field(32, ge=2, description="length of a pixel's embedding")
    temperature: float = Field(0.5, gt=0, description="that cosines are divided by")
    teacher_momentum: float = Field(0.999, ge=0, lt=1, description="of the encoder that sees the keys")
    queue: int = Field(256, ge=1, description="prototypes of earlier steps that pixels are compared with")
    least_share: float = Field(0.01, ge=0, lt=1, description="an object has more than this share of both views")
    most_share: float = Field(0.99, gt=0, le=1, description="and less than this share")
    decoder: Literal["none", "aspp"] = Field("aspp", description="between features and embedding; aspp: of DeepLabv3")
    width: int = Field(256, ge=8, description="channels of the decoder")
    dropout: float = Field(0.5, ge=0, lt=1, description="of the decoder's pyramid")
    upsample: bool = Field(True, description="losses at pixels; false: at tokens, as the published code can")

    @model_validator(mode="after")
    def _possible_shares(self) -> Params:
        if self.least_share >= self.most_share:
            raise ValueError(
                f"least_share: {self.least_share} is not below most_share: {self.most_share}; no object fits"
            )
        return self


def views(params: Params) -> tuple[CropSpec, ...]:
    """The query and the key: RandomResizedCrop, flip, jitter and grey of the published code."""
    from maskmill.pretrain._light import Light
    from maskmill.pretrain._views import CropSpec

    light = Light(jitter=(0.4, 0.4, 0.4, 0.1), jitter_chance=0.8, grey=0.2, blur=0.0)
    return (CropSpec(side=params.crop, scale=params.scale, flip=0.5, light=light),) * 2


def accepts(params: Params, segments: Sequence[np.ndarray]) -> bool:
    """Whether views with these segments int64 [side, side] have an object in common; else they are drawn anew."""
    found: set[int] | None = None
    for view in segments:
        share = np.bincount(view.ravel()) / view.size
        fit = (share > params.least_share) & (share < params.most_share)
        here = set((np.flatnonzero(fit[1:]) + 1).tolist())
        found = here if found is None else found & here
    return bool(found)


def build(network: Learning, params: Params, photos: int) -> Learner:
    """The network with an embedding and a saliency head, its teacher, and a queue of random directions."""
    from maskmill.pretrain.maskcontrast.learner import MaskContrast

    return MaskContrast(network, params)

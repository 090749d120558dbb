"""MoCo v2: a photo's crop finds the other crop of the photo among those of many earlier photos.

Chen, Fan, Girshick and He, Improved Baselines with Momentum Contrastive Learning (arXiv:2003.04297), on He, Fan, Wu,
Xie and Girshick, Momentum Contrast (CVPR 2020). Settings are those of its code for a ResNet-50 on ImageNet, 200 epochs.

Crops that are keys are computed by a slow copy of the network in other micro-batches than the queries of their photos,
as the paper's shuffled batch norm does between GPUs; a micro-batch is what a GPU is there, so 32 photos as published.
Not as in the paper: keys of a query's own photo that are still in the queue are no negatives of it
(`own_keys: false`). In ImageNet an epoch is longer than the queue and there are hardly any; among a few thousand photos
they would be most of what looks like the query.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from maskmill.pretrain import Traits
from maskmill.pretrain._settings import TrainingParams

if TYPE_CHECKING:
    from maskmill.backbones.learning import Learning
    from maskmill.pretrain._learner import Learner
    from maskmill.pretrain._views import CropSpec

TRAITS = Traits(dense=False, regrouped=True)


class Params(TrainingParams):
    """Settings. Defaults: 200 epochs of ImageNet on 8 GPUs."""

    crop: int = Field(224, ge=16, le=1024, description="side of both crops, pixels")
    scale: tuple[float, float] = Field((0.2, 1.0), description="their share of the photo's area, from and to")
    dimensions: int = Field(128, ge=2, le=4096, description="length of queries and keys")
    hidden: int | None = Field(None, ge=1, le=16384, description="width of the head's hidden layer; null: of a token")
    queue: int = Field(65_536, ge=1, description="earlier keys that a query is told from")
    own_keys: bool = Field(
        False, description="true, as published: earlier keys of a query's own photo are negatives too"
    )
    teacher_momentum: float = Field(0.999, ge=0, lt=1, description="of the network that computes the keys")
    temperature: float = Field(0.2, gt=0, description="of the cosines")
    steps: int = Field(1_000_800, ge=1, description="optimiser steps; published: 200 epochs of ImageNet")
    learning_rate: float = Field(0.03, gt=0, description="the highest one, of this batch size")
    final_rate: float = Field(0.0, ge=0, description="at the last step, on a cosine")
    warmup: float = Field(0.0, ge=0, lt=1, description="share of the steps in which the rate rises to the highest one")
    weight_decay: float = Field(1e-4, ge=0, description="of all parameters")
    clip: float = Field(1e6, gt=0, description="largest norm of a step's gradient; published: none")
    optimiser: Literal["adamw", "adam", "sgd", "lars", "larc"] = Field("sgd", description="see TrainingParams")


def views(params: Params) -> tuple[CropSpec, ...]:
    """The query and the key, drawn alike."""
    from maskmill.pretrain._light import Light
    from maskmill.pretrain._views import CropSpec

    light = Light(jitter=(0.4, 0.4, 0.4, 0.1), jitter_chance=0.8, grey=0.2, blur=0.5, blur_sigma=(0.1, 2.0))
    return (CropSpec(side=params.crop, scale=params.scale, light=light),) * 2


def build(network: Learning, params: Params, photos: int) -> Learner:
    """The network with its head, their slow copies and a queue of random keys.

    Raises:
        ConfigError: batch norms, and a batch of a single micro-batch: nothing could be shuffled.
    """
    from maskmill.pretrain.moco.learner import MoCo

    return MoCo(network, params)

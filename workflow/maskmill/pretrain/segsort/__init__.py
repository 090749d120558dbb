"""SegSort without labels: every pixel is drawn to the mean of its segment (Hwang et al., ICCV 2019, section 3.3).

Segments come from the recipe's cut, which needs no supervised edge detector. The negative log-likelihood of a mixture
of von Mises-Fisher distributions compares each pixel's embedding with the mean directions of all segments of the batch,
its own and those of other photos. Photos that look alike get similar segments, because one network embeds all of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from maskmill.pretrain import Traits
from maskmill.pretrain._settings import Shares, TrainingParams

if TYPE_CHECKING:
    from maskmill.backbones.learning import Learning
    from maskmill.pretrain._learner import Learner
    from maskmill.pretrain._views import CropSpec

TRAITS = Traits(dense=True, segments=True)


class Params(TrainingParams):
    """The published settings of the unsupervised variant on PASCAL VOC."""

    steps: int = Field(10_000, ge=1, description="optimiser steps")
    batch_size: int = Field(8, ge=2, description="photos a step, over all processes")
    micro_batch: int = Field(
        8, ge=2, description="photos that are computed at once, and that a batch norm sees; results depend on it"
    )
    learning_rate: float = Field(0.002, gt=0, description="the highest one, of this batch size")
    final_rate: float = Field(0.0, ge=0, description="at the last step, on a cosine")
    warmup: float = Field(0.0, ge=0, lt=1, description="share of the steps in which the rate rises to the highest one")
    weight_decay: float = Field(5e-4, ge=0, description="not of biases, norms and positions")
    clip: float = Field(1e4, gt=0, description="largest norm of a step's gradient; published: none")
    optimiser: Literal["adamw", "adam", "sgd", "lars"] = Field("sgd", description="adamw, adam, sgd, or lars")

    crop: int = Field(336, ge=16, description="side of a view, pixels")
    scale: Shares = Field((0.15, 1.0), description="its share of the photo's area, from and to")
    dimensions: int = Field(32, ge=2, description="length of an embedding")
    concentration: float = Field(10.0, gt=0, description="kappa of the von Mises-Fisher distributions")
    parts: int = Field(
        0,
        ge=0,
        le=64,
        description="segments are divided by k-means of embeddings and places in a crop, started from so many squares "
        "a side (HSG: 4); 0: they are not, as published",
    )
    iterations: int = Field(10, ge=1, description="of that k-means")
    decoder: Literal["none", "psp"] = Field("psp", description="between features and embedding; psp: of PSPNet")
    width: int = Field(512, ge=8, description="channels of the decoder")
    head_rate: float = Field(10.0, gt=0, description="learning rate of decoder and embedding, over that of the network")


def views(params: Params) -> tuple[CropSpec, ...]:
    """One crop, mirrored half of the time, in its own light."""
    from maskmill.pretrain._light import Light
    from maskmill.pretrain._views import CropSpec

    light = Light(jitter_chance=0.0, grey=0.0, blur=0.0)
    return (CropSpec(side=params.crop, scale=params.scale, flip=0.5, light=light),)


def build(network: Learning, params: Params, photos: int) -> Learner:
    """The network with an embedding."""
    from maskmill.pretrain.segsort.learner import SegSort

    return SegSort(network, params)

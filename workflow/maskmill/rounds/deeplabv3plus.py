"""DeepLabv3+ trained on photos and the masks of the round before.

Sources: the network is that of Chen et al. (ECCV 2018). Training follows the self-training of Deep Spectral Methods
(Melas-Kyriazi et al., CVPR 2022, supplement): encoder frozen but for its last level, output stride 8, AdamW with
learning rate 2e-4 falling linearly to 0 over 5000 steps, random resized crops of 224 px, flips, colour jitter (.4, .4,
.2, .1) with chance .8, grey .2, blur .1. MaskDistill (Van Gansbeke et al., 2022) is `loss: ohem, hardest: 0.2,
optimiser: sgd, learning_rate: 0.002, weight_decay: 1e-4, crop: 512`; COMUS's cross-entropy over all pixels is the
default here as well.

The encoder is any timm CNN, named by a feature set of the recipe (`encoder`): its backbone and checkpoint are used, not
its size. `docs/rounds.md` says where this departs from the papers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from maskmill.recipe.sections import Size
from maskmill.rounds._settings import Training

if TYPE_CHECKING:
    import torch

    from maskmill.rounds._job import Job, Sources
    from maskmill.rounds._masks import Masks
    from maskmill.rounds._pixels import Photos, PixelPredictor

PHOTOS = True  # sees photos, not stored features
CLASSIFIER = ("network.classify.weight", "network.classify.bias")  # tensors with a row a class


class Params(Training):
    """Settings of the network, of its training, and of the photos that it sees."""

    encoder: str = Field("semantic", description="feature set that names the encoder's backbone (a CNN)")
    unfrozen: int = Field(1, ge=0, le=16, description="last feature levels of the encoder that learn; 0: none")
    output_stride: Literal[8, 16, 32] = Field(8, description="pixels a cell of the encoder's last level (dilates)")
    width: int = Field(256, ge=32, le=2048, multiple_of=16, description="channels of pyramid and decoder")
    steps: int = Field(5000, ge=1, description="optimiser steps a round")
    batch_size: int = Field(96, ge=1, description="crops a step")
    crop: int = Field(224, ge=32, le=2048, multiple_of=32, description="side of a training crop in pixels")
    scale: tuple[float, float] = Field((0.25, 1.0), description="from and to: share of a photo's area in a crop")
    jitter: float = Field(0.4, ge=0, lt=1, description="brightness, contrast; half for saturation, a quarter for hue")
    grey: float = Field(0.2, ge=0, le=1, description="chance that a crop is grey")
    blur: float = Field(0.1, ge=0, le=1, description="chance that a crop is blurred")
    optimiser: Literal["adamw", "sgd"] = Field("adamw", description="sgd: momentum 0.9")
    learning_rate: float = Field(2e-4, gt=0, description="at the first step")
    weight_decay: float = Field(1e-8, ge=0, description="of the optimiser")
    schedule: Literal["poly", "cosine"] = Field("poly", description="how the learning rate falls to 0")
    power: float = Field(1.0, gt=0, le=10, description="schedule poly: (1 - step / steps) ** power; 1 is linear")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of the target spread evenly over all classes")
    balance: float = Field(
        0.0, ge=0, le=1, description="class weights ~ frequency ** -balance; 0 counts every cell alike"
    )
    size: Size = Field(default_factory=lambda: Size(short_side=320), description="of the photos that are predicted")
    upsample: int = Field(2, ge=1, le=4, description="mask cells a side for each of the logits, which lie 4 px apart")
    cache_mib: int = Field(1024, ge=0, description="masks are held in memory when they fit in this")

    @model_validator(mode="after")
    def _shares(self) -> Params:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale: expected 0 < from <= to <= 1, found {list(self.scale)}")
        return self


def data(sources: Sources, masks: Masks, params: Params, job: Job) -> Photos:
    """The photos of the manifest that the masks belong to."""
    from maskmill.rounds._pixels import Photos

    return Photos(sources, masks, params)


def fit(photos: Photos, params: Params, job: Job) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Train the network; (all of its tensors, diagnostics with the loss of every step and the timing).

    The result depends on the seed, the photos and the masks, not on threads or on the processes that decode.

    Raises:
        NumericsError: the loss is not finite. StoppedError: SIGTERM or SIGUSR1 came. InputError: a photo has changed.
        ConfigError: the encoder is no CNN with feature levels, or cannot dilate to the output stride.
    """
    from maskmill.rounds._pixels import train_network

    return train_network(photos, params, job)


def load(
    tensors: Mapping[str, np.ndarray], spec: Mapping[str, Any], params: Params, device: torch.device
) -> PixelPredictor:
    """The trained network, from what its file holds; it needs no weights file."""
    from maskmill.rounds._pixels import PixelPredictor

    return PixelPredictor(tensors, spec, params, device)


__all__: Sequence[str] = ("CLASSIFIER", "PHOTOS", "Params", "data", "fit", "load")

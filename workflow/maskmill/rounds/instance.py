"""Instances by self-training: a network without proposals, trained on the objects that the cut found (CutLER).

Sources: CutLER (Wang et al., CVPR 2023) for DropLoss, copy-paste and what is kept from round to round; the network is
that of CondInst (Tian et al., ECCV 2020) and the suppression of doubles that of SOLOv2 (Wang et al., NeurIPS 2020)
instead of CutLER's Cascade Mask R-CNN. MaskDistill (Van Gansbeke et al., 2022) trains a class-aware detector on one
object an image and paints its detections: `paint_score: 0.9`, then a round of deeplabv3plus. With `clusters: 1` the
student is CutLER's, class-agnostic; with k clusters every instance has a class.

The encoder is any timm CNN or plain ViT, named by a feature set of the recipe (`encoder`): its backbone and checkpoint
are used, not its size. `docs/rounds.md` says where this departs from the papers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from maskmill.recipe.sections import Model, Size

if TYPE_CHECKING:
    import torch

    from maskmill.rounds._instance_data import InstancePhotos
    from maskmill.rounds._instance_predict import InstancePredictor
    from maskmill.rounds._job import Job, Sources
    from maskmill.rounds._masks import Masks

PHOTOS = True  # sees photos, not stored features
INSTANCES = True  # learns from instances and predicts instances
CLASSIFIER = ("network.classify.weight", "network.classify.bias")  # tensors with a row a class
TEACHING = ("keep_score", "merge_iou")  # what decides which instances a round learns from, not how


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
    jitter: float = Field(0.4, ge=0, lt=1, description="brightness, contrast; half for saturation, a quarter for hue")
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
        0.5, gt=0, le=1, description="from round 2: old instances that overlap a kept prediction as much are replaced"
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


def data(sources: Sources, masks: Masks, params: Params, job: Job) -> InstancePhotos:
    """The photos that have instances, and these.

    Raises:
        NumericsError: no photo has one. ConfigError: no instances, manifest or weights are given.
    """
    from maskmill.rounds._instance_data import InstancePhotos

    return InstancePhotos(sources, masks, params, job.classes)


def fit(photos: InstancePhotos, params: Params, job: Job) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Train the network; (all of its tensors, diagnostics with the loss of every step and the timing).

    The result depends on the seed, the photos and their instances, not on threads or on the processes that decode.

    Raises:
        NumericsError: the loss is not finite. StoppedError: SIGTERM or SIGUSR1 came. InputError: a photo has changed.
        ConfigError: the encoder is neither a CNN with levels of stride 4 to 32 nor a plain ViT.
    """
    from maskmill.rounds._instance_train import train_network

    return train_network(photos, params, job)


def load(
    tensors: Mapping[str, np.ndarray], spec: Mapping[str, Any], params: Params, device: torch.device
) -> InstancePredictor:
    """The trained network, from what its file holds; it needs no weights file."""
    from maskmill.rounds._instance_predict import InstancePredictor

    return InstancePredictor(tensors, spec, params, device)


__all__: Sequence[str] = ("CLASSIFIER", "INSTANCES", "PHOTOS", "TEACHING", "Params", "data", "fit", "load")

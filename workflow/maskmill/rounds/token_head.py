"""A small convolutional decoder on frozen tokens, trained on the masks of the round before.

The self-training step of COMUS (section 3.4: a network trained on filtered pseudo-masks makes better masks than
the ones it was given), with a head on stored features in place of a DeepLabv3 on pixels: no image is decoded again,
and a round costs minutes on a CPU. What makes it better than its teacher is that a mask's errors differ from image to
image while the features that explain it do not, so the head learns what the masks agree on.

Each feature set is standardised, reduced to `dimensions` principal components and laid on the finest grid of the
image; the head sees them side by side. Targets are the shares of the classes among a token's known mask cells; cells
marked ignore take no part. Every round starts from fresh weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from maskmill.rounds._settings import Training

if TYPE_CHECKING:
    import torch

    from maskmill.rounds._data import Images
    from maskmill.rounds._job import Job, Sources
    from maskmill.rounds._masks import Masks
    from maskmill.rounds._predictor import TokenPredictor

PHOTOS = False  # sees stored features
CLASSIFIER = ("head.classify.weight", "head.classify.bias")  # tensors with a row a class


class Params(Training):
    """Settings of the token head and of its training."""

    dimensions: int = Field(64, ge=1, le=4096, description="principal components kept of each feature set")
    hidden: int = Field(64, ge=4, le=4096, description="channels of the head")
    layers: int = Field(2, ge=0, le=16, description="3x3 convolution blocks; 0 is a classifier of single tokens")
    dropout: float = Field(0.1, ge=0, lt=1, description="share of input channels hidden from the head in training")
    steps: int = Field(400, ge=1, description="optimiser steps a round")
    batch_size: int = Field(16, ge=1, description="images a step")
    learning_rate: float = Field(2e-3, gt=0, description="peak of the cosine schedule")
    weight_decay: float = Field(0.05, ge=0, description="AdamW")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of the target spread evenly over all classes")
    balance: float = Field(
        0.0, ge=0, le=1, description="class weights ~ frequency ** -balance; 0 counts every cell alike"
    )
    upsample: int = Field(4, ge=1, le=16, description="mask cells a token side, bilinear on logits")
    max_fit_points: int = Field(50_000, ge=2, description="tokens that standardisation and PCA are fitted on")
    cache_mib: int = Field(2048, ge=0, description="memory for aligned features; images beyond it are read again")


def data(sources: Sources, masks: Masks, params: Params, job: Job) -> Images:
    """Aligned features and targets; the projections are those of the student to go on from, or fitted here."""
    from maskmill.rounds._data import Images
    from maskmill.rounds._predictor import projections_of

    images = Images(sources.features, masks, params.cache_mib)
    if job.before:
        images.projections = projections_of(job.before, list(sources.features))
    else:
        images.fit_projections(params.dimensions, params.max_fit_points, job.seed)
    return images


def fit(images: Images, params: Params, job: Job) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Train a head; (its tensors, diagnostics with the loss of every step and the timing).

    The result depends on the seed and on the content of the images, not on the threads: a step is always split into
    the same micro-batches, each computed by one thread, and their gradients are added in order.

    Raises:
        NumericsError: the loss is not finite. StoppedError: SIGTERM or SIGUSR1 came.
    """
    from maskmill.rounds._train import train_head

    tensors, diagnostics = train_head(images, params, job)
    for name, projection in images.projections.items():
        tensors |= {f"{name}.mean": projection.mean, f"{name}.weight": projection.weight}
    return tensors, diagnostics


def load(
    tensors: Mapping[str, np.ndarray], spec: Mapping[str, Any], params: Params, device: torch.device
) -> TokenPredictor:
    """The trained head, from what its file holds."""
    from maskmill.rounds._predictor import TokenPredictor

    return TokenPredictor(tensors, spec, params, device)


def build(inputs: int, classes: int, params: Params) -> torch.nn.Module:
    """The untrained head: [n, inputs, h, w] and validity [n, 1, h, w] -> logits [n, classes, h, w]."""
    from maskmill.rounds._net import Head

    return Head(inputs, params.hidden, params.layers, classes)


__all__: Sequence[str] = ("CLASSIFIER", "PHOTOS", "Params", "build", "data", "fit", "load")

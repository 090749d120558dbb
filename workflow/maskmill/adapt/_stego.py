"""What STEGO and the methods that extend it share: settings, batches, shifts. Read without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from maskmill.adapt._data import Crops
from maskmill.recipe.base import Model

if TYPE_CHECKING:
    from maskmill.adapt._correspondence import Measured
    from maskmill.adapt._data import TokenImages
    from maskmill.adapt._training import HeadTraining

SHUFFLES = 5  # random pairings of a batch


class StegoParams(Model):
    """Settings of the head, the loss and the training. Defaults: ViT-S on COCO-Stuff."""

    dimensions: int = Field(70, ge=1, le=4096, description="length of a code")
    dropout: float = Field(0.1, ge=0, lt=1, description="share of a map's channels hidden in training")
    crops: Crops = Field("five", description="items of the training: whole images, or five crops of each")
    neighbours: int = Field(7, ge=1, le=100, description="nearest items that an item's partner is drawn from")
    places: int = Field(11, ge=2, le=64, description="sampled places a side, anew at every step")
    weight_self: float = Field(0.67, ge=0, description="weight of an image with itself")
    weight_knn: float = Field(0.25, ge=0, description="weight of an image with one of its nearest neighbours")
    weight_random: float = Field(0.63, ge=0, description="weight of an image with any other of the batch")
    shift: Literal["auto", "fixed"] = Field("auto", description="auto: read from the features; fixed: shift_*")
    shift_self: float = Field(0.08, ge=-1, le=1, description="published for DINO ViT-S on COCO-Stuff")
    shift_knn: float = Field(0.02, ge=-1, le=1, description="the same")
    shift_random: float = Field(0.66, ge=-1, le=1, description="the same")
    quantile_self: float = Field(0.2, ge=0, le=1, description="auto: share of an image's own pairs pushed apart")
    quantile_knn: float = Field(0.3, ge=0, le=1, description="auto: the same for pairs with a neighbour")
    quantile_random: float = Field(0.99, ge=0, le=1, description="auto: the same for pairs with a random image")
    steps: int = Field(5000, ge=1, description="optimiser steps")
    batch_size: int = Field(16, ge=2, description="items a step")
    learning_rate: float = Field(5e-4, gt=0, description="Adam, of the head")
    probe_rate: float = Field(5e-3, gt=0, description="Adam, of the prototypes")


def pairing(params: StegoParams, training: HeadTraining, step: int) -> tuple[list[int], list[int]]:
    """A step's items, and one neighbour of each."""
    from maskmill.adapt._data import order
    from maskmill.adapt._neighbours import neighbours_of
    from maskmill.numerics.sampling import rng

    near = neighbours_of(training.neighbours, params.crops, params.neighbours)
    items = order(step, params.batch_size, len(near), training.seed)
    ranks = rng(training.seed, "partners", str(step)).integers(params.neighbours, size=len(items))
    return items, [int(near[j, r]) for j, r in zip(items, ranks, strict=True)]


def batch(images: TokenImages, params: StegoParams, training: HeadTraining, step: int) -> tuple[np.ndarray, ...]:
    """Tokens [n, d, h, w] of a step's items and of one neighbour of each."""
    from maskmill.adapt._data import stack

    items, partners = pairing(params, training, step)
    x = stack([images.item(j, params.crops) for j in items])
    side = (x.shape[2], x.shape[3])
    return x, stack([images.item(j, params.crops) for j in partners], side)


def measured(images: TokenImages, params: StegoParams, training: HeadTraining, encode: Any) -> Measured:
    """Centred correlations of features, and of what `encode` makes of them, of PAIRS pairs of each kind."""
    from maskmill.adapt import _correspondence as corr
    from maskmill.adapt import _trainer
    from maskmill.adapt._data import on_device

    drawn = (batch(images, params, training, step) for step in range(-(-corr.PAIRS // params.batch_size)))
    batches = (tuple(on_device(part, training.device) for part in parts) for parts in drawn)
    return corr.measure(batches, encode, params.places, _trainer.generator(training, "measure"))  # type: ignore[arg-type]


def shifts_of(measured: Measured, params: StegoParams) -> dict[str, float]:
    """The shift of every kind of pair: given, or a quantile of the centred correlations of the features."""
    from maskmill.adapt._correspondence import quantiles

    if params.shift == "fixed":
        return {"self": params.shift_self, "knn": params.shift_knn, "random": params.shift_random}
    own = {"self": params.quantile_self, "knn": params.quantile_knn, "random": params.quantile_random}
    return quantiles(measured, own)

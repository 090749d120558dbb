"""STEGO: a small head distils which features correspond, within an image, to similar images and to random ones.

Hamilton, Zhang, Hariharan, Snavely and Freeman, Unsupervised semantic segmentation by distilling feature
correspondences (ICLR 2022). The head, the sampling of places, the centring, the clamp and the weights are those of its
code; the five crops of an image are crops of its stored tokens, not of its pixels.

The shifts decide what counts as alike, and the published ones hold for one backbone. `shift: auto` reads them off the
features: the given quantiles of the centred correlations of 256 pairs of each kind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from maskmill.adapt import Traits
from maskmill.adapt._data import Crops
from maskmill.recipe.base import Model

if TYPE_CHECKING:
    import torch

    from maskmill.adapt._correspondence import Measured
    from maskmill.adapt._data import TokenImages
    from maskmill.adapt._training import HeadTraining

TRAITS = Traits(neighbours=True, per_image=False, crops=True, trains_backbone=False)
SHUFFLES = 5  # random pairings of a batch


class Params(Model):
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


def code_length(params: Params, clusters: int) -> int:
    """Length of a code: dimensions."""
    return params.dimensions


def build(depth: int, params: Params, clusters: int) -> torch.nn.Module:
    """The head: `codes` [n, d, h, w] -> [n, c, h, w], and `prototypes`."""
    from maskmill.adapt._modules import CodeHead, Projector

    return CodeHead(Projector(depth, params.dimensions, params.dropout), clusters, params.dimensions)


def fit(images: TokenImages, params: Params, training: HeadTraining) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Train; tensors `head.*`, and diagnostics: loss, monitors, shifts, histograms of F and of S before and after.

    Raises:
        NumericsError: a loss that is not finite, or fewer items than neighbours or than a batch.
    """
    from maskmill.adapt import _correspondence as corr
    from maskmill.adapt import _trainer
    from maskmill.adapt._modules import drop_channels, probe_loss, usage

    head = _trainer.seeded(training, lambda: build(images.depth, params, training.clusters))
    projector, prototypes = head.projector, head.prototypes
    before = _measured(images, params, training, lambda x: x)
    shifts = _shifts(before, params)
    weights = {"self": params.weight_self, "knn": params.weight_knn, "random": params.weight_random / SHUFFLES}

    def loss(batch: tuple[torch.Tensor, ...], draws: torch.Generator, step: int) -> Any:
        code = tuple(projector(x, draws) for x in batch)
        seen = tuple(drop_channels(x, params.dropout, draws) for x in batch)
        parts: dict[str, Any] = dict.fromkeys(corr.KINDS, 0.0)
        for kind, f, s in corr.pairs((seen[0], seen[1]), (code[0], code[1]), params.places, SHUFFLES, draws):
            parts[kind] = parts[kind] + weights[kind] * corr.loss(f, s, shifts[kind])
        cosine = prototypes(code[0].detach())
        parts["probe"] = probe_loss(cosine)
        return sum(parts.values()), len(batch[0]), parts | usage(cosine.detach())

    task = _trainer.HeadTask(
        head, [(list(projector.parameters()), params.learning_rate), ([prototypes.weight], params.probe_rate)],
        lambda step: [batch(images, params, training, step)], loss, params.steps, params.batch_size,
        monitors=(*corr.KINDS, "probe", "entropy", "used", "largest"),
    )  # fmt: skip
    tensors, diagnostics = _trainer.train(task, training)
    after = _measured(images, params, training, head.codes)
    return tensors, diagnostics | {"shifts": shifts, "histograms": corr.histograms(before, after)}


def batch(images: TokenImages, params: Params, training: HeadTraining, step: int) -> tuple[np.ndarray, ...]:
    """Tokens [n, d, h, w] of a step's items and of one neighbour of each."""
    from maskmill.adapt._data import order, stack
    from maskmill.adapt._neighbours import neighbours_of
    from maskmill.numerics.sampling import rng

    near = neighbours_of(training.neighbours, params.crops, params.neighbours)
    items = order(step, params.batch_size, len(near), training.seed)
    ranks = rng(training.seed, "partners", str(step)).integers(params.neighbours, size=len(items))
    x = stack([images.item(j, params.crops) for j in items])
    side = (x.shape[2], x.shape[3])
    partners = stack([images.item(int(near[j, r]), params.crops) for j, r in zip(items, ranks, strict=True)], side)
    return x, partners


def _measured(images: TokenImages, params: Params, training: HeadTraining, encode: Any) -> Measured:
    """Centred correlations of features, and of what `encode` makes of them, of PAIRS pairs of each kind."""
    from maskmill.adapt import _correspondence as corr
    from maskmill.adapt import _trainer
    from maskmill.adapt._data import on_device

    drawn = (batch(images, params, training, step) for step in range(-(-corr.PAIRS // params.batch_size)))
    batches = (tuple(on_device(part, training.device) for part in parts) for parts in drawn)
    return corr.measure(batches, encode, params.places, _trainer.generator(training, "measure"))  # type: ignore[arg-type]


def _shifts(measured: Measured, params: Params) -> dict[str, float]:
    """The shift of every kind of pair: given, or a quantile of the centred correlations of the features."""
    from maskmill.adapt._correspondence import quantiles

    if params.shift == "fixed":
        return {"self": params.shift_self, "knn": params.shift_knn, "random": params.shift_random}
    own = {"self": params.quantile_self, "knn": params.quantile_knn, "random": params.quantile_random}
    return quantiles(measured, own)

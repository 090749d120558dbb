"""DINOSAUR: slots compete for the tokens of an image, and a decoder reconstructs the tokens from the slots.

Seitzer, Horn, Zadaianchuk, Zietlow, Xiao and others, Bridging the gap to real-world object-centric learning (ICLR
2023). Network, loss and schedule are those of its code (OCLF), defaults those for COCO. Codes are the masks of the
slots: of the decoder (`masks: decoder`: alpha of the MLP decoder, cross-attention of the transformer's last layer), or
of slot attention itself.

Not as in the paper: tokens are stored ones of whole images, laid on side x side, without crops or flips of pixels; the
transformer decoder ends in a linear layer, so that its width may differ from the token's. Slots start from draws. In
training these are anew for every image and step; codes are made from one draw, kept with the head and the same for
every image, so that they depend on the image and the head only. Positions are learnt on side x side and laid
bilinearly on other grids.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from maskmill.adapt import Traits
from maskmill.recipe.base import Model

if TYPE_CHECKING:
    import torch

    from maskmill.adapt._data import TokenImages
    from maskmill.adapt._training import HeadTraining

TRAITS = Traits(neighbours=False, per_image=True, crops=False, trains_backbone=False)


class Params(Model):
    """Settings of slot attention, the decoder and the training. Defaults: COCO with the MLP decoder."""

    decoder: Literal["mlp", "transformer"] = Field("mlp", description="what makes tokens from slots")
    masks: Literal["decoder", "slots"] = Field("decoder", description="whose masks the codes are")
    slots: int = Field(7, ge=2, le=254, description="slots of an image, the largest number of its segments")
    slot_size: int = Field(256, ge=1, le=4096, description="length of a slot")
    iterations: int = Field(3, ge=1, le=20, description="of slot attention")
    input_width: int | None = Field(None, ge=1, description="hidden units before slot attention; null: of a token")
    width: int | None = Field(None, ge=1, description="of the decoder; null: 2048 (mlp), that of a token (transformer)")
    layers: int | None = Field(None, ge=1, le=32, description="of the decoder; null: 3 hidden (mlp), 4 (transformer)")
    heads: int = Field(8, ge=1, le=64, description="of the transformer decoder; published: 8, on PASCAL VOC 4")
    side: int = Field(14, ge=2, le=128, description="tokens a side in training")
    steps: int = Field(500_000, ge=1, description="optimiser steps")
    batch_size: int = Field(64, ge=2, description="images a step")
    learning_rate: float = Field(4e-4, gt=0, description="Adam, after the warm-up")
    warmup: int = Field(10_000, ge=0, description="steps in which the rate rises from 0")
    halve_every: int = Field(100_000, ge=1, description="steps in which the rate falls by half, after the warm-up")
    clip: float = Field(1.0, gt=0, description="largest norm of the gradient")


def code_length(params: Params, clusters: int) -> int:
    """Length of a code: the share of every slot."""
    return params.slots


def build(depth: int, params: Params, clusters: int) -> torch.nn.Module:
    """The head: `codes` [n, d, h, w] -> masks [n, slots, h, w] that sum to one."""
    from maskmill.adapt.dinosaur.slots import MlpDecoder, SlotAttention, SlotHead, TransformerDecoder

    size, layers = params.slot_size, params.layers
    decoder: torch.nn.Module
    if params.decoder == "mlp":
        decoder = MlpDecoder(depth, size, params.width or 2048, layers or 3, params.side)
    else:
        decoder = TransformerDecoder(depth, size, params.width or depth, layers or 4, params.heads)
    slots = SlotAttention(size, params.slots, params.iterations)
    return SlotHead(depth, slots, decoder, params.input_width or depth, params.masks == "decoder")


def fit(images: TokenImages, params: Params, training: HeadTraining) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Train; tensors `head.*`, and diagnostics: loss (mean squared error of the tokens), monitors.

    Raises:
        NumericsError: a loss that is not finite.
    """
    import torch

    from maskmill.adapt import _masks, _trainer

    head = _trainer.seeded(training, lambda: build(images.depth, params, training.clusters))

    def loss(batch: tuple[torch.Tensor, ...], draws: torch.Generator, step: int) -> Any:
        (x,) = batch
        shape = (len(x), *head.slots.draw.shape)
        made, masks = head(x, torch.randn(shape, generator=draws, device=x.device))
        error = (made.float() - x).square().mean()
        return error, len(x), {"error": error / x.var()} | _masks.mask_monitors(masks)

    task = _trainer.HeadTask(
        head, [(list(head.parameters()), params.learning_rate)],
        lambda step: _masks.batch(images, params.side, params.batch_size, step, training.seed), loss, params.steps,
        params.batch_size, monitors=("error", *_masks.MONITORS), rate=lambda step: rate(step, params), clip=params.clip,
    )  # fmt: skip
    return _trainer.train(task, training)


def rate(step: int, params: Params) -> float:
    """Factor of the learning rate at a step, from 0: a linear rise from 0, then an exponential fall from its end on."""
    if step < params.warmup:
        return step / params.warmup
    return float(0.5 ** ((step - params.warmup) / params.halve_every))

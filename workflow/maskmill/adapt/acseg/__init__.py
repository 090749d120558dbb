"""ACSeg: a few concepts adapt to each image, so that the assignment of its tokens to them has large modularity.

Li, Wang, Cheng, Yu and others, ACSeg: adaptive conceptualization for unsupervised semantic segmentation (CVPR
2023). There is no official code: the network and the optimiser are those of what others published (k = 5, six blocks,
six heads, AdamW), the loss is checked against networkx. Codes are the assignments; a concept that wins no token is no
region, so the number of regions follows the image.

Not as in the paper: tokens are stored ones of whole images, without crops or flips of pixels; attention sees them with
mean 0 and variance 1 each, whatever the backbone's scale; heads may be of any number. `centre: image` is for features
that all point the same way (keys with their bias): their graph is complete and has next to no modularity, whatever the
groups. The paper's split into foreground and background by the cls token's attention is left out: every token is in
some region.
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
    """Settings of the generator and its training. Defaults: ViT-S/16 on PASCAL VOC; steps are our own."""

    concepts: int = Field(5, ge=2, le=254, description="k, the largest number of regions of an image")
    blocks: int = Field(6, ge=1, le=64, description="blocks of cross-attention, self-attention and feed-forward")
    heads: int = Field(6, ge=1, le=64, description="of each attention")
    hidden: int = Field(1024, ge=1, description="hidden units of a feed-forward layer")
    centre: Literal["none", "image"] = Field("none", description="image: tokens less the mean of their image")
    side: int | None = Field(None, ge=2, le=256, description="tokens a side in training; null: as stored")
    steps: int = Field(5000, ge=1, description="optimiser steps")
    batch_size: int = Field(32, ge=2, description="images a step")
    learning_rate: float = Field(1e-4, gt=0, description="AdamW")
    weight_decay: float = Field(0.01, ge=0, description="AdamW")


def code_length(params: Params, clusters: int) -> int:
    """Length of a code: the share of every concept."""
    return params.concepts


def build(depth: int, params: Params, clusters: int) -> torch.nn.Module:
    """The head: `codes` [n, d, h, w] -> assignments [n, concepts, h, w] in 0..1."""
    from maskmill.adapt.acseg.concepts import ConceptHead

    return ConceptHead(depth, params.concepts, params.blocks, params.heads, params.hidden, params.centre == "image")


def fit(images: TokenImages, params: Params, training: HeadTraining) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Train; tensors `head.*`, and diagnostics: loss (minus the modularity), monitors.

    Raises:
        NumericsError: a loss that is not finite.
    """
    from maskmill.adapt import _masks, _trainer
    from maskmill.adapt._modularity import affinity, modularity
    from maskmill.device import float32

    head = _trainer.seeded(training, lambda: build(images.depth, params, training.clusters))

    def loss(batch: tuple[torch.Tensor, ...], draws: torch.Generator, step: int) -> Any:
        (x,) = batch
        masks = head.codes(x)
        with float32(x.device):  # W is a difference of nearly equal numbers
            found = modularity(affinity(head.tokens(x).float()), masks.flatten(2).mT.float())
        return -found.mean(), len(x), {"modularity": found.mean()} | _masks.mask_monitors(masks)

    task = _trainer.HeadTask(
        head, [(list(head.parameters()), params.learning_rate)],
        lambda step: _masks.batch(images, params.side, params.batch_size, step, training.seed), loss, params.steps,
        params.batch_size, monitors=("modularity", *_masks.MONITORS), optimiser="adamw",
        weight_decay=params.weight_decay,
    )  # fmt: skip
    return _trainer.train(task, training)

"""Hidden Positives: tokens that are more alike than a random reference token are positives of a contrast.

Seong, Moon, Lee, Hong and Heo, Leveraging hidden positives for unsupervised semantic segmentation (CVPR 2023). Two
kinds of positives are mined: by the frozen features, and by the codes of a teacher, the moving average of the head. The
weight of the second kind grows from 0 to 1 after `warmup` steps. The same contrast is applied to codes that are mixed
with those of the neighbouring tokens.

What differs, as only tokens are seen: no view of other colours, so no term that ties two views; the surroundings are
weighed by the features' cosine instead of the attention; crops are crops of stored tokens. Positives are mined without
dropout; weight decay also shortens prototypes and the projection, whose lengths do not matter. `tokens` draws some
anchors of every item, where the published code takes all. The published pool has one token of each of 2048 items out of
hundreds of thousands. A set with fewer images than `pool` gives one token of each image and no more: with several of an
image, an anchor's own image would be in the pool many times, and hardly a token of another image would be nearer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from maskmill.adapt import Traits
from maskmill.adapt._data import Crops
from maskmill.recipe.base import Model

if TYPE_CHECKING:
    import torch

    from maskmill.adapt._data import TokenImages
    from maskmill.adapt._training import HeadTraining

TRAITS = Traits(neighbours=False, per_image=False, crops=True, trains_backbone=False)


class Params(Model):
    """Settings of the head, the contrast and the training. Defaults: ViT-S on COCO-Stuff."""

    dimensions: int = Field(512, ge=1, le=4096, description="length of a code")
    dropout: float = Field(0.1, ge=0, lt=1, description="share of a map's channels hidden in training")
    crops: Crops = Field("five", description="items of the training: whole images, or five crops of each")
    tokens: int = Field(0, ge=0, description="anchors drawn of an item, anew at every step; 0: all, as published")
    temperature: float = Field(0.8, gt=0, description="of the contrast")
    negatives: float = Field(0.02, ge=0, le=1, description="share of all tokens in a denominator besides positives")
    pool: int = Field(2048, ge=1, description="reference tokens that decide what is a positive; at most one of "
                      "an image")  # fmt: skip
    renew: int = Field(100, ge=1, description="steps after which the reference codes are drawn anew")
    momentum: float = Field(0.99, ge=0, lt=1, description="of the teacher of the head")
    warmup: int = Field(1000, ge=0, description="steps before the teacher's positives count")
    steps: int = Field(11600, ge=1, description="optimiser steps")
    batch_size: int = Field(64, ge=2, description="items a step")
    learning_rate: float = Field(5e-4, gt=0, description="AdamW, of the head and the projection")
    weight_decay: float = Field(0.1, ge=0, description="AdamW")
    clip: float = Field(10.0, gt=0, description="largest norm of the head's gradient in a step")
    probe_rate: float = Field(5e-3, gt=0, description="AdamW, of the prototypes")


def code_length(params: Params, clusters: int) -> int:
    """Length of a code: dimensions."""
    return params.dimensions


def build(depth: int, params: Params, clusters: int) -> torch.nn.Module:
    """The head: `codes` [n, d, h, w] -> [n, c, h, w], `prototypes`; teacher, projection and pools of the training."""
    import torch

    from maskmill.adapt._modules import CodeHead, Projector
    from maskmill.adapt._teachers import ema_update

    c = params.dimensions
    head = CodeHead(Projector(depth, c, params.dropout), clusters, c)
    head.teacher = Projector(depth, c).requires_grad_(False)
    ema_update(head.teacher, head.projector, 0.0)
    head.projection = torch.nn.Linear(c, c)
    head.register_buffer("pool_features", torch.zeros(params.pool, depth))
    head.register_buffer("pool_codes", torch.zeros(params.pool, c))
    return head


def fit(images: TokenImages, params: Params, training: HeadTraining) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Train; tensors `head.*`, and diagnostics: loss and monitors (general, own: shares of pairs that are positives).

    Raises:
        NumericsError: a loss that is not finite.
    """
    import torch

    from maskmill.adapt import _trainer
    from maskmill.adapt._data import on_device
    from maskmill.adapt._modules import drop_channels, probe_loss, unit, usage
    from maskmill.adapt.hp import positives
    from maskmill.device import float32

    head = _trainer.seeded(training, lambda: build(images.depth, params, training.clusters))
    head.pool_features.copy_(unit(on_device(references(images, params, training, "features"), training.device)))
    redraw_pool(head, images, params, training, 0)

    def loss(batch: tuple[torch.Tensor, ...], draws: torch.Generator, step: int) -> Any:
        (x,) = batch
        codes = head.projector(x, draws)
        places = _anchors(x, params.tokens, draws)
        with float32(x.device):  # whether a cosine exceeds another wants float32
            f, own = (unit(_rows(maps.float(), places)) for maps in (x, _teacher_codes(head, x)))
            around = drop_channels(positives.mixed(codes.float(), x), params.dropout, draws)
            z, mix = (unit(head.projection(_rows(maps.float(), places))) for maps in (codes, around))
            settings = positives.ContrastSettings(
                places.shape[1], own_positives_weight(step, params), params.temperature
            )
            drawn = torch.rand(places.shape[1], len(f), generator=draws, device=x.device) < params.negatives
            pools = (head.pool_features, head.pool_codes)
            contrast, shares = positives.loss((z, mix), (f, own), pools, drawn, settings)
        cosine = head.prototypes(codes.detach())
        parts = {"contrast": contrast, "probe": probe_loss(cosine)}
        return sum(parts.values()), len(x), parts | shares | usage(cosine.detach())

    rest = [*head.projector.parameters(), *head.projection.parameters()]
    task = _trainer.HeadTask(
        head, [(rest, params.learning_rate), ([head.prototypes.weight], params.probe_rate)],
        lambda step: [batch(images, params, training, step)], loss, params.steps, params.batch_size,
        monitors=("contrast", "probe", "general", "own", "entropy", "used", "largest"),
        after=lambda step: _after(head, images, params, training, step),
        clip=params.clip, clipped=list(head.projector.parameters()), weight_decay=params.weight_decay,
        optimiser="adamw",
    )  # fmt: skip
    return _trainer.train(task, training)


def batch(images: TokenImages, params: Params, training: HeadTraining, step: int) -> tuple[np.ndarray, ...]:
    """Tokens [n, d, h, w] of a step's items."""
    from maskmill.adapt._data import order, stack

    items = order(step, params.batch_size, images.items(params.crops), training.seed)
    return (stack([images.item(j, params.crops) for j in items]),)


def own_positives_weight(step: int, params: Params) -> float:
    """Lambda: 0 while it warms up, then in a line to 1 at the end."""
    return max(0.0, (step - params.warmup) / max(1, params.steps - params.warmup))


def references(images: TokenImages, params: Params, training: HeadTraining, key: str) -> np.ndarray:
    """Random tokens [pool, d] float32, one of each of `pool` images.

    Of fewer images there is one token of each, given again until there are `pool`, which changes no maximum over them.
    """
    from maskmill.numerics.sampling import rng

    draws = rng(training.seed, "pool", key)
    picked = draws.permutation(len(images))[: params.pool]
    at = draws.random(len(picked))
    out = np.empty((len(picked), images.depth), np.float32)
    for row, (image, share) in enumerate(zip(picked, at, strict=True)):
        flat = images[int(image)].reshape(-1, images.depth)
        out[row] = flat[int(share * len(flat))]
    return np.resize(out, (params.pool, images.depth))


def redraw_pool(head: Any, images: TokenImages, params: Params, training: HeadTraining, step: int) -> None:
    """Draw the reference codes anew: the teacher's, of other tokens than before."""
    from maskmill.adapt._data import on_device
    from maskmill.adapt._modules import unit

    x = on_device(references(images, params, training, str(step)), training.device)
    head.pool_codes.copy_(unit(_teacher_codes(head, x[:, :, None, None])[:, :, 0, 0]))


def _teacher_codes(head: Any, x: torch.Tensor) -> torch.Tensor:
    """Codes of the teacher, without a gradient."""
    import torch

    with torch.no_grad():
        return torch.as_tensor(head.teacher(x))


def _after(head: Any, images: TokenImages, params: Params, training: HeadTraining, step: int) -> None:
    from maskmill.adapt._teachers import ema_update

    ema_update(head.teacher, head.projector, params.momentum)
    if (step + 1) % params.renew == 0:
        redraw_pool(head, images, params, training, step + 1)


def _anchors(x: torch.Tensor, tokens: int, draws: torch.Generator) -> torch.Tensor:
    """Places [n, anchors] in the flat grids of x [n, d, h, w]: all, or as many drawn ones."""
    import torch

    n, cells = len(x), x.shape[2] * x.shape[3]
    if not tokens or tokens >= cells:
        return torch.arange(cells, device=x.device).expand(n, cells)
    return torch.rand(n, cells, generator=draws, device=x.device).argsort(1)[:, :tokens]


def _rows(maps: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Vectors [n * anchors, c] of maps [n, c, h, w] at places [n, anchors]."""
    flat = maps.flatten(2)
    return flat.gather(2, places[:, None].expand(-1, flat.shape[1], -1)).transpose(1, 2).flatten(0, 1)

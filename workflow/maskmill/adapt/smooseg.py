"""SmooSeg: classes that change where features do; a smoothness energy, and a teacher of the prototypes.

Lan, Wang, Ke, Xu, Feng and Zhang, SmooSeg: smoothness prior for unsupervised semantic segmentation (NeurIPS 2023).
Two tokens pay (F - b) (1 - cos(p, p')) with F their centred feature correlation and p their soft assignments to the
teacher's prototypes, for all pairs within an image and across two images. The prototypes that learn predict the
teacher's hard assignment of detached codes; the teacher is their moving average, and the classes are the teacher's.

The five crops of an image are crops of its stored tokens, not of its pixels. Published shifts hold for one backbone:
`shift: auto` takes quantiles of the centred correlations instead, as for STEGO. `tokens` draws some tokens of every
item, where the published code takes all. The teacher moves after the optimiser's step, in the published code before it.
"""

from __future__ import annotations

from functools import partial
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

TRAITS = Traits(neighbours=False, per_image=False, crops=True, trains_backbone=False)
ROOM = {"cpu": 1 << 24, "cuda": 1 << 28}  # pairs of tokens that are held at once
KEPT = 1 << 26  # pairs of a batch above which they are computed again for the gradient instead of kept
PLACES = 11  # sampled places a side for the same
KINDS = {"within": "self", "across": "random"}  # names of the correspondence's pairs


class Params(Model):
    """Settings of the head, the energy and the training. Defaults: ViT-S on COCO-Stuff."""

    dimensions: int = Field(64, ge=1, le=4096, description="length of a code")
    dropout: float = Field(0.2, ge=0, lt=1, description="share of a map's channels hidden in training")
    crops: Crops = Field("five", description="items of the training: whole images, or five crops of each")
    tokens: int = Field(0, ge=0, description="tokens drawn of an item, anew at every step; 0: all, as published")
    temperature: float = Field(0.1, gt=0, description="of the soft assignment")
    momentum: float = Field(0.998, ge=0, lt=1, description="of the teacher of the prototypes")
    shift: Literal["auto", "fixed"] = Field("auto", description="auto: read from the features; fixed: shift_*")
    shift_within: float = Field(-0.02, ge=-1, le=1, description="published for DINO ViT-S on COCO-Stuff")
    shift_across: float = Field(0.48, ge=-1, le=1, description="the same")
    quantile_within: float = Field(0.2, ge=0, le=1, description="auto: share of an image's own pairs pushed apart")
    quantile_across: float = Field(0.95, ge=0, le=1, description="auto: the same for pairs of two images")
    steps: int = Field(8000, ge=1, description="optimiser steps")
    batch_size: int = Field(32, ge=2, description="items a step")
    learning_rate: float = Field(1e-4, gt=0, description="Adam, of the projector")
    prototype_rate: float = Field(5e-4, gt=0, description="Adam, of the prototypes")


def code_length(params: Params, clusters: int) -> int:
    """Length of a code: dimensions."""
    return params.dimensions


def build(depth: int, params: Params, clusters: int) -> torch.nn.Module:
    """The head: `codes` [n, d, h, w] -> [n, c, h, w], `prototypes` (the teacher), `student` (they learn)."""
    import torch

    from maskmill.adapt._modules import CodeHead, Projector, Prototypes, unit
    from maskmill.adapt._teachers import AveragedPrototypes, ema_update

    head = CodeHead(Projector(depth, params.dimensions, params.dropout, torch.nn.SiLU), clusters, params.dimensions)
    student = Prototypes(clusters, params.dimensions)
    with torch.no_grad():
        student.weight.copy_(unit(student.weight))
    head.student, head.prototypes = student, AveragedPrototypes(clusters, params.dimensions)  # type: ignore[assignment]
    ema_update(head.prototypes, student, 0.0)
    return head


def fit(images: TokenImages, params: Params, training: HeadTraining) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Train; tensors `head.*`, and diagnostics: loss, monitors, shifts, histograms of F and of S before and after.

    Raises:
        NumericsError: a loss that is not finite.
    """
    import torch

    from maskmill.adapt import _correspondence as corr
    from maskmill.adapt import _trainer
    from maskmill.adapt._modules import drop_channels, usage
    from maskmill.adapt._teachers import ema_update

    head = _trainer.seeded(training, lambda: build(images.depth, params, training.clusters))
    before = _measured(images, params, training, lambda x: x)
    shifts = _shifts(before, params)

    def loss(batch: tuple[torch.Tensor, ...], draws: torch.Generator, step: int) -> Any:
        code, seen = head.projector(batch[0], draws), drop_channels(batch[0], params.dropout, draws)
        scores = head.prototypes(code)
        p = torch.softmax(scores / params.temperature, 1)
        other = corr.others(len(code), draws)
        parts = {
            "within": smoothness(seen, seen, p, p, shifts["within"]),
            "across": smoothness(seen, seen[other], p, p[other], shifts["across"]),
            "data": torch.nn.functional.cross_entropy(head.student(code.detach()), scores.argmax(1)),
        }
        return sum(parts.values()), len(code), parts | usage(scores.detach())

    task = _trainer.HeadTask(
        head,
        [(list(head.projector.parameters()), params.learning_rate), ([head.student.weight], params.prototype_rate)],
        lambda step: [batch(images, params, training, step)], loss, params.steps, params.batch_size,
        monitors=("within", "across", "data", "entropy", "used", "largest"),
        after=lambda step: ema_update(head.prototypes, head.student, params.momentum),
    )  # fmt: skip
    tensors, diagnostics = _trainer.train(task, training)
    after = _measured(images, params, training, head.codes)
    return tensors, diagnostics | {"shifts": shifts, "histograms": corr.histograms(before, after)}


def smoothness(
    f: torch.Tensor, other_f: torch.Tensor, p: torch.Tensor, other_p: torch.Tensor, shift: float
) -> torch.Tensor:
    """mean((F - b) (1 - cos(p, p'))) over all pairs of tokens of two maps, F centred as in the published code.

    That is F - F's mean over the tokens of the other map + F's mean over the whole batch. Both means are products of
    mean unit vectors, so that no more pairs need to be held than ROOM. Never in half precision.

    Args:
        f, other_f: features [n, d, h, w]. p, other_p: assignments [n, k, h, w].
    """
    from torch.utils.checkpoint import checkpoint

    from maskmill.adapt._modules import full, unit
    from maskmill.device import float32

    with float32(f.device):
        u, v, a, b = (unit(full(x)).flatten(2) for x in (f, other_f, p, other_p))  # [n, ., tokens]
        level = (u.mean(2) * v.mean(2)).sum(1).mean() - shift
        total, each = a.new_zeros(()), u.shape[2] * v.shape[2]
        group = max(1, ROOM.get(f.device.type, ROOM["cpu"]) // each)
        for u_, v_, a_, b_ in zip(*(x.split(group) for x in (u, v, a, b)), strict=True):
            some = partial(_energy, u_, v_, a_, b_, level)
            if len(u) * each > KEPT:
                total = total + checkpoint(some, use_reentrant=False, preserve_rng_state=False)
            else:
                total = total + some()
    return total / (len(u) * each)


def _energy(u: torch.Tensor, v: torch.Tensor, a: torch.Tensor, b: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
    """The sum over all pairs of tokens of some maps; unit vectors [n, ., tokens], and what is added to each F."""
    centred = u.mT @ v - (u * v.mean(2, keepdim=True)).sum(1)[:, :, None] + level
    return (centred * (1 - a.mT @ b)).sum()


def batch(images: TokenImages, params: Params, training: HeadTraining, step: int) -> tuple[np.ndarray, ...]:
    """Tokens of a step's items: [n, d, h, w], or [n, d, tokens, 1] of drawn ones."""
    from maskmill.adapt._data import order, stack
    from maskmill.numerics.sampling import rng

    items = order(step, params.batch_size, images.items(params.crops), training.seed)
    grids = [images.item(j, params.crops) for j in items]
    if params.tokens:
        draws = rng(training.seed, "tokens", str(step))
        grids = [drawn(grid, params.tokens, draws) for grid in grids]
    return (stack(grids),)


def drawn(grid: np.ndarray, tokens: int, draws: np.random.Generator) -> np.ndarray:
    """Some tokens [tokens, 1, d] of a grid [h, w, d]; one that is smaller gives some twice."""
    flat = grid.reshape(-1, 1, grid.shape[2])
    return flat[np.sort(draws.choice(len(flat), tokens, replace=len(flat) < tokens))]


def _measured(images: TokenImages, params: Params, training: HeadTraining, encode: Any) -> Measured:
    """Centred correlations of features, and of what `encode` makes of them, of PAIRS pairs of each kind."""
    from maskmill.adapt import _correspondence as corr
    from maskmill.adapt import _trainer
    from maskmill.adapt._data import on_device, order, stack

    size = min(params.batch_size, images.items(params.crops))

    def batches() -> Any:
        for step in range(-(-corr.PAIRS // size)):
            items = order(step, size, images.items(params.crops), training.seed)
            x = on_device(stack([images.item(j, params.crops) for j in items]), training.device)
            yield x, x

    found = corr.measure(batches(), encode, PLACES, _trainer.generator(training, "measure"))
    return {kind: found[pair] for kind, pair in KINDS.items()}


def _shifts(measured: Measured, params: Params) -> dict[str, float]:
    """The shift of both kinds of pairs: given, or a quantile of the centred correlations of the features."""
    from maskmill.adapt._correspondence import quantiles

    if params.shift == "fixed":
        return {"within": params.shift_within, "across": params.shift_across}
    return quantiles(measured, {"within": params.quantile_within, "across": params.quantile_across})

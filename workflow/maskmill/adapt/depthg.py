"""DepthG: STEGO that also learns from depth maps, and that looks at places that are far from each other in space.

Sick, Engel, Hermosilla and Ropinski, Unsupervised semantic segmentation through depth-guided feature correlation and
sampling (CVPR 2024). One more loss holds the codes of an image against the products of the depths of two places, and
the places are farthest points of the image's point cloud instead of uniform ones. Weights, shifts and schedules are
those of its code for ViT-S on COCO-Stuff, the rest is STEGO's (`stego`). Depth maps come from `inputs.depth`.

`compat: paper` multiplies depths from 0 (nearest) to 1. The published code scales each depth to unit length before,
as it does the vectors of a feature map: then every product is 1 and the loss pulls all codes of an image together,
whatever their depth. `compat: code` does the same.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from maskmill.adapt import Traits
from maskmill.adapt._stego import StegoParams

if TYPE_CHECKING:
    import torch

    from maskmill.adapt._beside import TokensAndMore
    from maskmill.adapt._training import HeadTraining

TRAITS = Traits(neighbours=True, per_image=False, crops=True, trains_backbone=False, beside=("depth",))
WIDTH = 2 * math.tan(90 / 2)  # of the field of view, in depths: the published code takes 90 degrees for radians
FAR = 5.0  # what the largest depth is, in the published point cloud


class Params(StegoParams):
    """Settings of STEGO, the depth loss and the sampling. Defaults: ViT-S on COCO-Stuff."""

    weight_self: float = Field(0.58, ge=0, description="weight of an image with itself")
    weight_knn: float = Field(0.36, ge=0, description="weight of an image with one of its nearest neighbours")
    weight_random: float = Field(0.7, ge=0, description="weight of an image with any other of the batch")
    shift_self: float = Field(0.07, ge=-1, le=1, description="published for DINO ViT-S on COCO-Stuff")
    shift_knn: float = Field(0.025, ge=-1, le=1, description="the same")
    shift_random: float = Field(0.761, ge=-1, le=1, description="the same")
    weight_depth: float = Field(0.19, ge=0, description="weight of the depth of an image, at the start")
    shift_depth: float = Field(0.03, ge=-1, le=1, description="product of two depths above which codes are alike")
    decay: float = Field(0.6, gt=0, le=1, description="what both are multiplied by after every decay_every steps")
    decay_every: int = Field(250, ge=1, description="see decay")
    sampling: Literal["farthest", "uniform"] = Field("farthest", description="places: farthest points in space, or any")
    places_decay: float = Field(0.9, gt=0, le=1, description="farthest: places is multiplied by it, rounded down")
    places_every: int = Field(1000, ge=1, description="farthest: after the first step, and then every so many")
    compat: Literal["paper", "code"] = Field("paper", description="code: every depth counts as 1, as published")
    steps: int = Field(1667, ge=1, description="optimiser steps; published: 5000, of which a batch counts three")


def code_length(params: Params, clusters: int) -> int:
    """Length of a code: dimensions."""
    return params.dimensions


def build(depth: int, params: Params, clusters: int) -> torch.nn.Module:
    """The head: `codes` [n, d, h, w] -> [n, c, h, w], and `prototypes`."""
    from maskmill.adapt._modules import CodeHead, Projector

    return CodeHead(Projector(depth, params.dimensions, params.dropout), clusters, params.dimensions)


def fit(images: TokensAndMore, params: Params, training: HeadTraining) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Train; tensors `head.*`, and diagnostics: loss, monitors, shifts, histograms of F and of S before and after.

    Raises:
        NumericsError: a loss that is not finite, or fewer items than neighbours or than a batch. InputError: a depth
            map has changed.
    """
    from maskmill.adapt import _correspondence as corr
    from maskmill.adapt import _stego, _trainer
    from maskmill.adapt._modules import drop_channels, probe_loss, usage

    head = _trainer.seeded(training, lambda: build(images.depth, params, training.clusters))
    projector, prototypes = head.projector, head.prototypes
    before = _stego.measured(images, params, training, lambda x: x)
    shifts = _stego.shifts_of(before, params)
    weights = {"self": params.weight_self, "knn": params.weight_knn, "random": params.weight_random / _stego.SHUFFLES}

    def loss(batch: tuple[torch.Tensor, ...], draws: torch.Generator, step: int) -> Any:
        x, partners, depth, *given = batch
        places = (given[0], given[1]) if given else corr.uniform(len(x), params.places, draws)
        code = projector(x, draws), projector(partners, draws)
        seen = drop_channels(x, params.dropout, draws), drop_channels(partners, params.dropout, draws)
        parts: dict[str, Any] = dict.fromkeys(corr.KINDS, 0.0)
        for kind, f, s in corr.pairs(seen, code, params.places, _stego.SHUFFLES, draws, places):
            parts[kind] = parts[kind] + weights[kind] * corr.loss(f, s, shifts[kind])
            if kind == "self":
                parts["depth"] = depth_loss(corr.sample(depth, places[0]), s, step, params)
        cosine = prototypes(code[0].detach())
        parts["probe"] = probe_loss(cosine)
        return sum(parts.values()), len(x), parts | usage(cosine.detach())

    task = _trainer.HeadTask(
        head, [(list(projector.parameters()), params.learning_rate), ([prototypes.weight], params.probe_rate)],
        lambda step: [batch(images, params, training, step)], loss, params.steps, params.batch_size,
        monitors=(*corr.KINDS, "depth", "probe", "entropy", "used", "largest"),
    )  # fmt: skip
    tensors, diagnostics = _trainer.train(task, training)
    after = _stego.measured(images, params, training, head.codes)
    return tensors, diagnostics | {"shifts": shifts, "histograms": corr.histograms(before, after)}


def depth_loss(depth: torch.Tensor, s: torch.Tensor, step: int, params: Params) -> torch.Tensor:
    """- w mean(max(S, 0) (D - b)) with D the products of depths; weight w and shift b decay alike.

    Args:
        depth: at the places of an image, [n, 1, s, s]. s: correlations of its codes at them, [n, s, s, s, s].
    """
    from maskmill.adapt import _correspondence as corr

    factor = decayed(step, params)
    return params.weight_depth * factor * corr.loss(of_depth(depth, params.compat), s, params.shift_depth * factor)


def decayed(step: int, params: Params) -> float:
    """Factor of weight and shift of the depth at a step."""
    return float(params.decay ** max(0, (step - 1) // params.decay_every))


def side_at(step: int, params: Params) -> int:
    """Places a side at a step, at least two; published: the first decay comes after the first step."""
    side = params.places
    for _ in range(-(-step // params.places_every)):
        side = max(2, int(side * params.places_decay))
    return side


def of_depth(depth: torch.Tensor, compat: str) -> torch.Tensor:
    """Products of the depths [n, 1, s, s] of all pairs of places [n, s, s, s, s]."""
    if compat == "code":
        depth = (depth > 0).to(depth.dtype)
    return depth[:, 0, :, :, None, None] * depth[:, 0, None, None]


def batch(images: TokensAndMore, params: Params, training: HeadTraining, step: int) -> tuple[np.ndarray, ...]:
    """Tokens [n, d, h, w] of a step's items and of one neighbour of each, depth [n, 1, h, w] of the items.

    And with farthest points the places [n, s, s, 2] of items and neighbours, see `maskmill.adapt._correspondence`.
    """
    from maskmill.adapt import _stego
    from maskmill.adapt._data import stack

    items, partners = _stego.pairing(params, training, step)
    x = stack([images.item(j, params.crops) for j in items])
    size = x.shape[2], x.shape[3]
    y = stack([images.item(j, params.crops) for j in partners], size)
    depth, other = (stack([images.far_item(j, params.crops) for j in chosen], size) for chosen in (items, partners))
    if params.sampling == "uniform":
        return x, y, depth
    side = side_at(step, params)
    return x, y, depth, farthest(depth[:, 0], side), farthest(other[:, 0], side)


def farthest(depth: np.ndarray, side: int) -> np.ndarray:
    """Cells of maps [n, h, w] that are far from each other in space, [n, side, side, 2] in [-1, 1], (x, y).

    From the first cell on the one is taken that is farthest from all that are taken, the first of equal ones; in their
    order on the grid. Of a grid with fewer cells, as many as make a square.
    """
    n, h, w = depth.shape
    side = min(side, math.isqrt(h * w))
    points = cloud(depth).reshape(n, h * w, 3)
    chosen, rows = np.zeros((n, side * side), np.int64), np.arange(n)
    nearest = np.full((n, h * w), np.inf)
    for place in range(1, side * side):
        last = points[rows, chosen[:, place - 1]][:, None]
        nearest = np.minimum(nearest, np.square(last - points).sum(2))
        nearest[rows, chosen[:, place - 1]] = -1.0  # no cell is taken twice, though all may be at one point
        chosen[:, place] = nearest.argmax(1)
    cells = np.sort(chosen, 1)
    scaled = [2 * at / max(1, most - 1) - 1 for at, most in ((cells % w, w), (cells // w, h))]
    return np.stack(scaled, 2).reshape(n, side, side, 2).astype(np.float32)


def cloud(depth: np.ndarray) -> np.ndarray:
    """Points [n, h, w, 3] of maps [n, h, w] as a camera sees them, float32; what is nearest, at 0, is one point."""
    h, w = depth.shape[1:]
    y, x = np.mgrid[:h, :w].astype(np.float32)
    across = np.float32(WIDTH) * depth * (x - np.float32(w / 2)) / np.float32(w)
    down = np.float32(WIDTH) * depth * (y - np.float32(h / 2)) / np.float32(h)
    return np.stack([across, down, -depth * np.float32(FAR)], 3).astype(np.float32)

"""Training of the panoptic network: that of `instance`, with the cross-entropy of the semantic map."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from maskmill.device import autocast, pinned
from maskmill.rounds._descent import train_instances
from maskmill.rounds._photo_training import normalise
from maskmill.rounds._training import StudentTraining, number
from maskmill.rounds.instance.crops import NEITHER
from maskmill.rounds.instance.training import SentCrop, batch_loss, send_crops
from maskmill.rounds.panoptic.crops import PanopticCrop, PanopticPhotos, read_crops
from maskmill.rounds.panoptic.network import PanopticNet, build
from maskmill.rounds.panoptic.params import Params
from maskmill.training.team import Number, Work

Sent = tuple[torch.Tensor, list[SentCrop], torch.Tensor]


def train_network(
    photos: PanopticPhotos, params: Params, training: StudentTraining
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """See `panoptic.fit`."""

    def built(architecture: str) -> PanopticNet:
        return build(architecture, photos.things, photos.stuff, params)

    return train_instances(photos, params, training, built, read_crops, _send, _work)


def _send(crops: list[PanopticCrop], device: torch.device) -> Sent:
    """A micro-batch on its way to the device: see `send_crops`; and the semantic maps [n, c, c]."""
    pixels, sent = send_crops(list(crops), device)
    return pixels, sent, pinned(np.stack([crop.semantic for crop in crops]), device)


def _work(
    network: PanopticNet,
    learning: list[nn.Parameter],
    facts: Mapping[str, Any],
    params: Params,
    training: StudentTraining,
) -> Work:
    """The function of one micro-batch: sum of losses, weight, gradients.

    The instances' losses are sums that the loop divides by the weight, so the semantic loss, a mean, is multiplied by
    it before.
    """
    device = training.device

    def work(sent: Sent) -> tuple[Number, Number, tuple[torch.Tensor, ...]]:
        pixels, crops, semantic = sent
        x = normalise(pixels.to(device, non_blocking=True), facts).contiguous()
        with autocast(device):
            found, maps = network(x)
        total, count = batch_loss(found, crops, params)
        weight = max(count, 1)
        total = total + params.semantic_weight * weight * semantic_loss(maps, semantic.to(device, non_blocking=True))
        return number(total), float(weight), torch.autograd.grad(total, learning)

    return work


def semantic_loss(maps: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of logits [n, s + 1, h, w] over the cells of target [n, h, w] that are not NEITHER."""
    known = target != NEITHER
    logp = nn.functional.log_softmax(maps.float(), dim=1).gather(1, torch.where(known, target, 0)[:, None])[:, 0]
    return -(known * logp).sum() / known.sum().clamp_min(1)

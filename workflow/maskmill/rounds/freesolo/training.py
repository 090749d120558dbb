"""Training of the network: micro-batches of crops, the loss of one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from maskmill.device import autocast, pinned
from maskmill.rounds._descent import train_instances
from maskmill.rounds._instance_photos import InstancePhotos
from maskmill.rounds._photo_training import normalise
from maskmill.rounds._training import StudentTraining, number
from maskmill.rounds.freesolo.crops import Crop, read_crops
from maskmill.rounds.freesolo.losses import extent_loss, focal_of, mean_loss, pair_loss
from maskmill.rounds.freesolo.network import SoloNet, build, masks_of
from maskmill.rounds.freesolo.params import Params
from maskmill.training.team import Number, Work

MOST = 64  # cells of a crop whose masks are learnt, at most


def train_network(
    photos: InstancePhotos, params: Params, training: StudentTraining
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """See `freesolo.fit`."""

    def built(architecture: str) -> SoloNet:
        return build(architecture, training.classes, params)

    return train_instances(photos, params, training, built, read_crops, _send, _work)


def _work(
    network: SoloNet, learning: list[nn.Parameter], facts: Mapping[str, Any], params: Params, training: StudentTraining
) -> Work:
    """The function of one micro-batch: sum of losses, weight, gradients."""
    device = training.device

    def work(sent: tuple[torch.Tensor, list[SentCrop]]) -> tuple[Number, Number, tuple[torch.Tensor, ...]]:
        pixels, crops = sent
        x = normalise(pixels.to(device, non_blocking=True), facts).contiguous()
        with autocast(device):
            found = network(x)
        total, weight = x.new_zeros(()), 0
        for i, crop in enumerate(crops):
            parts = found.features[i].float(), found.logits[i].float(), found.kernels[i].float()
            loss, count = loss_of(*parts, crop, params)
            total, weight = total + loss, weight + count
        return number(total), float(max(weight, 1)), torch.autograd.grad(total, learning)

    return work


@dataclass(frozen=True)
class SentCrop:
    """What the loss reads of a crop, in tensors of the host that a device need not wait for.

    Attributes:
        masks: bool [n, c, c]. known: bool [c, c], cells that are not void. alike: bool [8, c, c].
        target: int64 [L]. some: int64 [m], cells whose masks are learnt: at most MOST, evenly among those that stand
            for an object. owner: int64 [m], their objects. count: cells that stand for an object.
        step: of the training.
    """

    masks: torch.Tensor
    known: torch.Tensor
    alike: torch.Tensor
    target: torch.Tensor
    some: torch.Tensor
    owner: torch.Tensor
    count: int
    step: int

    @classmethod
    def of(cls, crop: Crop, device: torch.device) -> SentCrop:
        """Everything whose size depends on the crop is settled here, on the host."""
        positive = np.flatnonzero(crop.owner >= 0)
        count = len(positive)
        some = positive[torch.linspace(0, max(0, count - 1), min(count, MOST)).round().long().numpy()]
        masks, known, alike = (pinned(array, device) for array in (crop.masks, ~crop.void, crop.alike))
        target, owner = pinned(crop.target, device), pinned(crop.owner[some], device)
        return cls(masks, known, alike, target, pinned(some, device), owner, count, crop.step)

    def to(self, device: torch.device) -> SentCrop:
        """On the device."""
        names = ("masks", "known", "alike", "target", "some", "owner")
        moved = {name: vars(self)[name].to(device, non_blocking=True) for name in names}
        return replace(self, **moved)


def _send(crops: list[Crop], device: torch.device) -> tuple[torch.Tensor, list[SentCrop]]:
    """A micro-batch on its way to the device: pixels [n, S, S, 3], and the rest of each crop."""
    pixels = pinned(np.stack([crop.pixels for crop in crops]), device)
    return pixels, [SentCrop.of(crop, device) for crop in crops]


def loss_of(
    features: torch.Tensor, logits: torch.Tensor, kernels: torch.Tensor, crop: SentCrop, params: Params
) -> tuple[torch.Tensor, int]:
    """Sum of the losses of one crop, and the number of cells that stand for an object, which it is divided by."""
    crop = crop.to(logits.device)
    total, count = focal_of(logits[:, 1:], crop.target, params.alpha, params.gamma).sum(), crop.count
    if count:
        known, masks = crop.known.float(), crop.masks.float()[crop.owner] * crop.known
        found = masks_of(features, kernels[crop.some])
        p = torch.sigmoid(found) * known
        losses = params.extent_weight * extent_loss(p, masks) + params.mean_weight * mean_loss(p, masks)
        if params.pair_weight:
            rising = params.pair_weight * min(1.0, (crop.step + 1) / params.pair_steps)
            losses = losses + rising * pair_loss(found, masks, crop.alike)
        total = total + losses.sum() * (count / len(crop.some))
    # every parameter has a gradient, also in a crop without objects
    return total + 0.0 * (features.sum() + kernels.sum()), count

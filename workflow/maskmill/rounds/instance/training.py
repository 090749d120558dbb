"""Training of the instance network: the encoder's fit, micro-batches of crops, the loss of one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from maskmill.device import autocast, pinned
from maskmill.rounds._descent import train_instances
from maskmill.rounds._photo_training import normalise
from maskmill.rounds._training import StudentTraining, number
from maskmill.rounds.instance.crops import Crop, InstancePhotos, read_crops
from maskmill.rounds.instance.losses import best_overlap, focal_of, kept_by_drop_loss, mask_loss
from maskmill.rounds.instance.network import InstanceNet, RawPredictions, build, masks_of
from maskmill.rounds.instance.params import Params
from maskmill.training.team import Number, Work

MOST = 64  # locations of a crop whose masks are learnt, at most
COARSE = 2  # DropLoss looks at every second cell of the masks


def train_network(
    photos: InstancePhotos, params: Params, training: StudentTraining
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """See `instance.fit`."""

    def built(architecture: str) -> InstanceNet:
        return build(architecture, training.classes, params)

    return train_instances(photos, params, training, built, read_crops, send_crops, _work)


def _work(
    network: InstanceNet,
    learning: list[nn.Parameter],
    facts: Mapping[str, Any],
    params: Params,
    training: StudentTraining,
) -> Work:
    """The function of one micro-batch: sum of losses, weight, gradients."""
    device = training.device

    def work(sent: tuple[torch.Tensor, list[SentCrop]]) -> tuple[Number, Number, tuple[torch.Tensor, ...]]:
        pixels, crops = sent
        x = normalise(pixels.to(device, non_blocking=True), facts).contiguous()
        with autocast(device):
            found = network(x)
        total, weight = batch_loss(found, crops, params)
        return number(total), float(max(weight, 1)), torch.autograd.grad(total, learning)

    return work


def batch_loss(found: RawPredictions, crops: list[SentCrop], params: Params) -> tuple[torch.Tensor, int]:
    """Sum of the losses of a micro-batch, and the number of locations that it is divided by; see `loss_of`."""
    total, weight = found.logits.new_zeros((), dtype=torch.float32), 0
    for i, crop in enumerate(crops):
        parts = found.features[i].float(), found.logits[i].float(), found.kernels[i].float(), found.places
        loss, count = loss_of(*parts, crop, params)
        total, weight = total + loss, weight + count
    return total, weight


@dataclass(frozen=True)
class SentCrop:
    """What the loss reads of a crop, in tensors of the host that a device need not wait for.

    Attributes:
        masks: bool [n, c, c]. known: bool [c, c], cells that are not void. target: int64 [L], see `Crop`.
        some: int64 [m], locations whose masks are learnt: at most MOST, evenly among those that stand for an object.
        owner: int64 [m], their objects. count: locations that stand for an object.
    """

    masks: torch.Tensor
    known: torch.Tensor
    target: torch.Tensor
    some: torch.Tensor
    owner: torch.Tensor
    count: int

    @classmethod
    def of(cls, crop: Crop, device: torch.device) -> SentCrop:
        """Everything whose size depends on the crop is settled here, on the host."""
        positive = np.flatnonzero(crop.owner >= 0)
        count = len(positive)
        some = positive[torch.linspace(0, max(0, count - 1), min(count, MOST)).round().long().numpy()]
        masks, known = pinned(crop.masks, device), pinned(~crop.void, device)
        target, owner = pinned(crop.target, device), pinned(crop.owner[some], device)
        return cls(masks, known, target, pinned(some, device), owner, count)

    def to(self, device: torch.device) -> SentCrop:
        """On the device."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "count"}
        return replace(self, **{name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()})


def send_crops(crops: list[Crop], device: torch.device) -> tuple[torch.Tensor, list[SentCrop]]:
    """A micro-batch on its way to the device: pixels [n, S, S, 3], and the rest of each crop."""
    pixels = pinned(np.stack([crop.pixels for crop in crops]), device)
    return pixels, [SentCrop.of(crop, device) for crop in crops]


def loss_of(
    features: torch.Tensor,
    logits: torch.Tensor,
    kernels: torch.Tensor,
    places: torch.Tensor,
    crop: SentCrop,
    params: Params,
) -> tuple[torch.Tensor, int]:
    """Sum of the losses of one crop, and the number of locations that stand for an object, which it is divided by.

    Both losses are sums over locations by the same number, which does not depend on what DropLoss leaves out.
    """
    crop = crop.to(logits.device)
    target, objects = crop.target, crop.masks.float()
    classes = focal_of(logits[None], target[None], params.alpha, params.gamma)[0]
    if params.drop_loss:
        with torch.no_grad():
            coarse = masks_of(features, kernels, places, COARSE)
            overlap = best_overlap(coarse, objects[:, COARSE // 2 :: COARSE, COARSE // 2 :: COARSE])
        classes = classes * kept_by_drop_loss(overlap, target, params.drop_loss)
    total, count = classes.sum(), crop.count
    if count:
        masks = masks_of(features, kernels[crop.some], places[crop.some])
        losses = mask_loss(masks, objects[crop.owner], crop.known.float())
        total = total + params.mask_weight * losses.sum() * (count / len(crop.some))
    return total + 0.0 * (
        features.sum() + kernels.sum()
    ), count  # every parameter has a gradient, also in a crop without objects

"""Training of the instance network: the encoder's fit, micro-batches of crops, the loss of one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from maskmill.errors import ConfigError
from maskmill.rounds._photo_training import CropTask, initial, learning_of, normalise, state_of, tensors_of, train
from maskmill.rounds._training import StudentTraining
from maskmill.rounds.instance.crops import Crop, InstancePhotos, read_crops
from maskmill.rounds.instance.losses import best_overlap, focal_of, kept_by_drop_loss, mask_loss
from maskmill.rounds.instance.network import InstanceNet, build, masks_of
from maskmill.rounds.instance.params import Params
from maskmill.training.team import Work

MICRO = {"cpu": 4, "cuda": 16}  # crops that are computed at once
MOST = 64  # locations of a crop whose masks are learnt, at most
COARSE = 2  # DropLoss looks at every second cell of the masks
WARM_UP = 0.05  # share of the steps with a rising learning rate, at most 1000 steps
FALL = 0.02  # schedule step: what the learning rate falls to at half of the steps (CutLER)


def _before(tensors: Mapping[str, np.ndarray], network: InstanceNet, params: Params) -> dict[str, torch.Tensor]:
    """Weights of the student to go on from; raises ConfigError where it is another network."""
    found, wanted = state_of(tensors), network.state_dict()
    if {name: tuple(value.shape) for name, value in found.items()} != {n: tuple(v.shape) for n, v in wanted.items()}:
        raise ConfigError(
            "rounds.start: continue, but the student of the round before is another network "
            f"(this one: {params.encoder!r}, width {params.width}, {params.layers} layers); use start: fresh"
        )
    return found


def train_network(
    photos: InstancePhotos, params: Params, training: StudentTraining
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """See `instance.fit`."""
    network, facts = initial(
        photos.weights, lambda name: build(name, training.classes, params), partial(_before, params=params),
        params.unfrozen, training,
    )  # fmt: skip
    network = network.to(training.device)
    read = partial(
        read_crops,
        photos=photos,
        params=params,
        seed=training.seed,
        shape=network.shape,
        micro=MICRO[training.device.type],
    )
    work = _work(network, learning_of(network), facts, params, training)
    task = CropTask(network, len(photos.rows), read, work, _optimiser(network, params), partial(rate, params=params))
    trained = train(task, params, training)
    tensors, absent = tensors_of(trained, photos.counts)
    diagnostics = {"loss": trained.losses, "images": len(photos.rows), "instances": int(photos.counts[1:].sum())}
    return tensors, diagnostics | {"absent": absent, "encoder": facts, "timing": trained.timing}


def _work(
    network: InstanceNet,
    learning: list[nn.Parameter],
    facts: Mapping[str, Any],
    params: Params,
    training: StudentTraining,
) -> Work:
    """The function of one micro-batch: sum of losses, weight, gradients."""
    device = training.device

    def work(crops: list[Crop]) -> tuple[float, float, tuple[torch.Tensor, ...]]:
        x = normalise(torch.from_numpy(np.stack([crop.pixels for crop in crops])).to(device), facts).contiguous()
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            found = network(x)
        total, weight = x.new_zeros(()), 0
        for i, crop in enumerate(crops):
            parts = found.features[i].float(), found.logits[i].float(), found.kernels[i].float(), found.places
            loss, count = loss_of(*parts, crop, params)
            total, weight = total + loss, weight + count
        return float(total.detach()), float(max(weight, 1)), torch.autograd.grad(total, learning)

    return work


def loss_of(
    features: torch.Tensor,
    logits: torch.Tensor,
    kernels: torch.Tensor,
    places: torch.Tensor,
    crop: Crop,
    params: Params,
) -> tuple[torch.Tensor, int]:
    """Sum of the losses of one crop, and the number of locations that stand for an object, which it is divided by.

    Both losses are sums over locations by the same number, which does not depend on what DropLoss leaves out.
    """
    target, owner = (torch.from_numpy(array).to(logits.device) for array in (crop.target, crop.owner))
    objects = torch.from_numpy(crop.masks).to(logits.device).float()
    classes = focal_of(logits[None], target[None], params.alpha, params.gamma)[0]
    if params.drop_loss:
        with torch.no_grad():
            coarse = masks_of(features, kernels, places, COARSE)
            overlap = best_overlap(coarse, objects[:, COARSE // 2 :: COARSE, COARSE // 2 :: COARSE])
        classes = classes * kept_by_drop_loss(overlap, target, params.drop_loss)
    total, positive = classes.sum(), torch.nonzero(owner >= 0)[:, 0]
    count = len(positive)
    if count:
        some = positive[torch.linspace(0, count - 1, min(count, MOST), device=positive.device).round().long()]
        masks = masks_of(features, kernels[some], places[some])
        known = torch.from_numpy(~crop.void).to(logits.device).float()
        losses = mask_loss(masks, objects[owner[some]], known)
        total = total + params.mask_weight * losses.sum() * (count / len(some))
    return total + 0.0 * (
        features.sum() + kernels.sum()
    ), count  # every parameter has a gradient, also in a crop without objects


def _optimiser(network: InstanceNet, params: Params) -> torch.optim.Optimizer:
    own = [p for name, p in network.named_parameters() if p.requires_grad and not name.startswith("encoder.")]
    encoder = [p for p in network.encoder.parameters() if p.requires_grad]
    groups = [{"params": own, "lr": params.learning_rate}]
    if encoder:
        groups.append({"params": encoder, "lr": params.learning_rate * params.encoder_rate})
    if params.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=params.learning_rate, momentum=0.9, weight_decay=params.weight_decay)
    return torch.optim.AdamW(groups, lr=params.learning_rate, weight_decay=params.weight_decay)


def rate(step: int, params: Params) -> float:
    """Factor of the learning rate: a linear warm-up, then the schedule."""
    warm = max(1, min(1000, round(WARM_UP * params.steps)))
    if step < warm:
        return (step + 1) / warm
    if params.schedule == "constant":
        return 1.0
    if params.schedule == "step":
        return 1.0 if step < params.steps // 2 else FALL
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, params.steps - warm)))

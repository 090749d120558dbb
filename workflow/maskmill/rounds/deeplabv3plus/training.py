"""Training of the network: micro-batches of crops, the loss of one, the optimiser and the schedule of its rate."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from maskmill.device import autocast, pinned
from maskmill.images.masks import ignore_value
from maskmill.rounds._classes import class_weights
from maskmill.rounds._losses import LOSSES
from maskmill.rounds._photo_training import CropTask, initial, learning_of, normalise, state_of, tensors_of, train
from maskmill.rounds._training import StudentTraining, number
from maskmill.rounds.deeplabv3plus.crops import CropBatch, LabelledPhotos, read_crops
from maskmill.rounds.deeplabv3plus.network import DeepLab, build
from maskmill.rounds.deeplabv3plus.params import Params
from maskmill.training.team import Number, Work

MICRO = {"cpu": 4, "cuda": 32}  # crops that are computed at once
SentCrops = tuple[torch.Tensor, torch.Tensor, int]  # pixels, labels, and the label that is ignore


def train_network(
    photos: LabelledPhotos, params: Params, training: StudentTraining
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """See `deeplabv3plus.fit`."""
    network, facts = initial(
        photos.weights, lambda name: build(name, training.classes, params), _before, params.unfrozen, training
    )
    network = network.to(training.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    counts = photos.masks.counts
    weights = torch.from_numpy(class_weights(counts, params.balance)).to(training.device)
    read = partial(read_crops, photos=photos, params=params, seed=training.seed, micro=MICRO[training.device.type])
    learning = learning_of(network)
    work = _work(network, learning, weights, facts, params, training)
    send, optimiser = partial(_send, device=training.device), _optimiser(learning, params)
    task = CropTask(network, len(photos.rows), read, send, work, optimiser, partial(_rate, params=params))
    trained = train(task, params, training)
    tensors, absent = tensors_of(trained, counts)
    diagnostics = {"loss": trained.losses, "images": len(photos.rows), "absent": absent, "encoder": facts}
    return tensors, diagnostics | {"timing": trained.timing}


def _before(tensors: Mapping[str, np.ndarray], network: DeepLab) -> dict[str, torch.Tensor]:
    return state_of(tensors)


def _work(
    network: DeepLab,
    learning: list[nn.Parameter],
    weights: torch.Tensor,
    facts: Mapping[str, Any],
    params: Params,
    training: StudentTraining,
) -> Work:
    """The function of one micro-batch: sum of losses, weight, gradients."""
    loss_of, device = LOSSES[params.loss], training.device

    def work(crops: SentCrops) -> tuple[Number, Number, tuple[torch.Tensor, ...]]:
        pixels, labels, ignore = crops
        x = normalise(pixels.to(device, non_blocking=True), facts)
        target = one_hot(labels.to(device, non_blocking=True).long(), ignore, training.classes)
        with autocast(device):
            logits = network(x)
        loss, weight = loss_of(logits, target, weights, params, params.label_smoothing)
        return number(loss), number(weight), torch.autograd.grad(loss, learning)

    return work


def _send(crops: CropBatch, device: torch.device) -> SentCrops:
    """A micro-batch on its way to the device; 16 bits without a sign are few operations' type."""
    pixels, labels = crops
    wide = labels.astype(np.int32) if labels.dtype == np.uint16 else labels
    return pinned(pixels, device), pinned(wide, device), ignore_value(labels.dtype)


def one_hot(labels: torch.Tensor, ignore: int, classes: int) -> torch.Tensor:
    """Labels [n, h, w] -> [n, classes, h, w] float32, all 0 where the label is ignore."""
    known = labels != ignore
    target = nn.functional.one_hot(torch.where(known, labels, 0), classes) * known[..., None]
    return target.permute(0, 3, 1, 2).float()


def _optimiser(learning: list[nn.Parameter], params: Params) -> torch.optim.Optimizer:
    if params.optimiser == "sgd":
        return torch.optim.SGD(learning, lr=params.learning_rate, momentum=0.9, weight_decay=params.weight_decay)
    return torch.optim.AdamW(learning, lr=params.learning_rate, weight_decay=params.weight_decay)


def _rate(step: int, params: Params) -> float:
    """Factor of the learning rate, 1 at the first step, without a warm-up."""
    done = step / params.steps
    if params.schedule == "constant":
        return 1.0
    if params.schedule == "step":
        return 1.0 if done < params.step_at else params.step_factor
    return 0.5 * (1 + math.cos(math.pi * done)) if params.schedule == "cosine" else (1 - done) ** params.power

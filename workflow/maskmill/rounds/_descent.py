"""How students of instances learn: the course of a training, its optimiser and rate, the weights it goes on from."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal, Protocol

import numpy as np
import torch

from maskmill.errors import ConfigError
from maskmill.rounds._instance_photos import InstancePhotos
from maskmill.rounds._photo_training import CropTask, initial, learning_of, state_of, tensors_of, train
from maskmill.rounds._pyramid import PyramidNet
from maskmill.rounds._training import StudentTraining
from maskmill.training.team import Work

MICRO = {"cpu": 4, "cuda": 16}  # crops that are computed at once
WARM_UP = 0.05  # share of the steps with a rising learning rate, at most 1000 steps
FALL = 0.02  # schedule step: what the learning rate falls to at half of the steps (CutLER)


class Settings(Protocol):
    """What a method's `Params` say of its optimiser."""

    @property
    def encoder(self) -> str: ...
    @property
    def encoder_rate(self) -> float: ...
    @property
    def width(self) -> int: ...
    @property
    def layers(self) -> int: ...
    @property
    def steps(self) -> int: ...
    @property
    def optimiser(self) -> Literal["adamw", "sgd"]: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def schedule(self) -> Literal["cosine", "step", "constant"]: ...


def weights_before(tensors: Mapping[str, np.ndarray], network: PyramidNet, params: Settings) -> dict[str, torch.Tensor]:
    """Weights of the student to go on from; raises ConfigError where it is another network."""
    found, wanted = state_of(tensors), network.state_dict()
    if {name: tuple(value.shape) for name, value in found.items()} != {n: tuple(v.shape) for n, v in wanted.items()}:
        raise ConfigError(
            "rounds.start: continue, but the student of the round before is another network "
            f"(this one: {params.encoder!r}, width {params.width}, {params.layers} layers); use start: fresh"
        )
    return found


def optimiser_of(network: PyramidNet, params: Settings) -> torch.optim.Optimizer:
    """The encoder learns at `encoder_rate` times the rate of the rest."""
    own = [p for name, p in network.named_parameters() if p.requires_grad and not name.startswith("encoder.")]
    encoder = [p for p in network.encoder.parameters() if p.requires_grad]
    groups = [{"params": own, "lr": params.learning_rate}]
    if encoder:
        groups.append({"params": encoder, "lr": params.learning_rate * params.encoder_rate})
    if params.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=params.learning_rate, momentum=0.9, weight_decay=params.weight_decay)
    return torch.optim.AdamW(groups, lr=params.learning_rate, weight_decay=params.weight_decay)


def rate(step: int, params: Settings) -> float:
    """Factor of the learning rate: a linear warm-up, then the schedule."""
    warm = max(1, min(1000, round(WARM_UP * params.steps)))
    if step < warm:
        return (step + 1) / warm
    if params.schedule == "constant":
        return 1.0
    if params.schedule == "step":
        return 1.0 if step < params.steps // 2 else FALL
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, params.steps - warm)))


def train_instances(
    photos: InstancePhotos,
    params: Any,
    training: StudentTraining,
    build: Callable[[str], PyramidNet],
    read: Callable[..., list[list[Any]]],
    send: Callable[..., Any],
    work: Callable[..., Work],
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Train a network of instances: its tensors, and diagnostics with the loss of every step and the timing.

    Args:
        build: architecture -> the network with random weights. read: draws, and photos, params, seed, shape and micro
            by name -> micro-batches of crops. send: crops, device -> what `Work` takes.
        work: network, the parameters that learn, facts of the encoder, params, training -> the function of a
            micro-batch.
    """
    before = partial(weights_before, params=params)
    network, facts = initial(photos.weights, build, before, params.unfrozen, training)
    network = network.to(training.device)
    micro = MICRO[training.device.type]
    crops = partial(read, photos=photos, params=params, seed=training.seed, shape=network.shape, micro=micro)
    loss, sent = work(network, learning_of(network), facts, params, training), partial(send, device=training.device)
    optimiser = optimiser_of(network, params)
    task = CropTask(network, len(photos.rows), crops, sent, loss, optimiser, partial(rate, params=params))
    trained = train(task, params, training)
    tensors, absent = tensors_of(trained, photos.counts)
    diagnostics = {"loss": trained.losses, "images": len(photos.rows), "instances": int(photos.counts[1:].sum())}
    return tensors, diagnostics | {"absent": absent, "encoder": facts, "timing": trained.timing}

"""How students of instances learn: the optimiser, its rate, and the weights that a later round goes on from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, Protocol

import numpy as np
import torch

from maskmill.errors import ConfigError
from maskmill.rounds._photo_training import state_of
from maskmill.rounds._pyramid import PyramidNet

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

"""Training of the token head: seeded batches, micro-batches as the unit of parallelism, AdamW, cosine schedule."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from maskmill.device import autocast, memory_advice, pinned
from maskmill.numerics.sampling import rng
from maskmill.rounds._classes import ABSENT_BIAS, class_weights
from maskmill.rounds._losses import LOSSES
from maskmill.rounds._training import StudentTraining, number
from maskmill.rounds.token_head.features import LabelledFeatures
from maskmill.rounds.token_head.network import TokenDecoder
from maskmill.rounds.token_head.params import Params
from maskmill.training.ahead import ahead
from maskmill.training.loop import Task, run
from maskmill.training.team import Number, Team, Work, set_gradients, single_threaded

MICRO = {"cpu": 4, "cuda": 64}  # images of a micro-batch, at most
WARM_UP = 0.05  # share of the steps with a rising learning rate
Ready = tuple[torch.Tensor, ...]  # features, validity, class shares, channel mask, on their way to the device
Draw = tuple[list[int], np.ndarray]  # images of a micro-batch, their channel mask [n, inputs]


def train_head(
    images: LabelledFeatures, params: Params, training: StudentTraining
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Tensors `head.*` and diagnostics of a head trained on `images`; see `token_head.fit`."""
    inputs = sum(projection.weight.shape[1] for projection in images.projections.values())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng(training.seed, "weights").integers(2**62)))
        head = TokenDecoder(inputs, params.hidden, params.layers, training.classes)
    if training.before:
        head.load_state_dict({k[len("head.") :]: torch.from_numpy(v) for k, v in _head(training.before).items()})
    head = head.to(training.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(head.parameters(), lr=params.learning_rate, weight_decay=params.weight_decay)
    weights = torch.from_numpy(class_weights(images.counts, params.balance)).to(training.device)

    def batches_from(step: int) -> Iterator[list[Ready]]:
        steps = itertools.islice(batches(images, params, inputs, training.seed, micro), step, None)

        def ready(draws: list[Draw]) -> list[Ready]:
            parts = ((*collate(images, chosen), keep) for chosen, keep in team.share(draws))
            return [tuple(pinned(array, training.device) for array in part) for part in parts]

        return ahead(ready, steps)

    micro = micro_size(training.device, params.batch_size, training.team)
    work, learning, team = _work(head, weights, params, training.device), list(head.parameters()), training.team
    with (
        single_threaded(training.device, training.threads) as pool,
        memory_advice("rounds.batch_size", params.batch_size),
    ):
        task = Task(
            head,
            optimiser,
            batches=batches_from,
            gradients=lambda batch: set_gradients(learning, batch, work, pool, team),
            rate=lambda step: _rate(step, params.steps),
            steps=params.steps,
            images=params.batch_size,
            ema=params.ema,
            team=team,
        )
        trained = run(task, training.keeper)
    absent = torch.from_numpy(images.counts == 0)
    state = {name: value.detach().float().cpu().clone() for name, value in trained.state.items()}
    state["classify.weight"][absent] = 0.0
    state["classify.bias"][absent] = ABSENT_BIAS
    tensors = {f"head.{name}": value.contiguous().numpy() for name, value in state.items()}
    facts = {"loss": trained.losses, "images": len(images), "absent": int(absent.sum()), "timing": trained.timing}
    return tensors, facts


def _head(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: value for name, value in tensors.items() if name.startswith("head.")}


def micro_size(device: torch.device, batch_size: int, team: Team) -> int:
    """Images that are computed at once: on CUDA a process's whole share of a step, as far as MICRO allows."""
    most = MICRO[device.type]
    return most if device.type == "cpu" else min(most, -(-batch_size // team.size))


def batches(
    images: LabelledFeatures, params: Params, inputs: int, seed: int, micro: int = MICRO["cpu"]
) -> Iterator[list[Draw]]:
    """`steps` lists of micro-batches (images, channel mask); every image once an epoch, in an order of the seed."""
    generator = rng(seed, "batches")
    queue: list[int] = []
    for _ in range(params.steps):
        while len(queue) < params.batch_size:
            queue += [int(i) for i in generator.permutation(len(images))]
        chosen, queue = queue[: params.batch_size], queue[params.batch_size :]
        keep = generator.random((len(chosen), inputs)) >= params.dropout
        masks = (keep / (1 - params.dropout)).astype(np.float32)
        yield [(chosen[a : a + micro], masks[a : a + micro]) for a in range(0, len(chosen), micro)]


def collate(images: LabelledFeatures, chosen: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images of any grids side by side, padded to the largest: features, validity, class shares, [n, c, H, W] each.

    Padding has validity 0 and target 0.
    """
    items = [images[i] for i in chosen]
    height, width = (max(x.shape[axis] for x, _ in items) for axis in (1, 2))
    x = np.zeros((len(items), items[0][0].shape[0], height, width), np.float32)
    valid = np.zeros((len(items), 1, height, width), np.float32)
    target = np.zeros((len(items), images.classes, height, width), np.float32)
    for n, (features, shares) in enumerate(items):
        h, w = features.shape[1:]
        x[n, :, :h, :w], valid[n, :, :h, :w] = features, 1
        target[n, :, :h, :w] = np.moveaxis(shares, 2, 0)
    return x, valid, target


def _work(head: nn.Module, weights: torch.Tensor, params: Params, device: torch.device) -> Work:
    """The function of one micro-batch: sum of losses, weight, gradients."""
    parameters, loss_of = list(head.parameters()), LOSSES[params.loss]

    def work(ready: Ready) -> tuple[Number, Number, tuple[torch.Tensor, ...]]:
        x, valid, target, keep = (tensor.to(device, non_blocking=True) for tensor in ready)
        x = x * keep[:, :, None, None]
        with autocast(device):
            logits = head(x.contiguous(memory_format=torch.channels_last), valid)
        loss, cells = loss_of(logits, target, weights, params, params.label_smoothing)
        return number(loss), number(cells), torch.autograd.grad(loss, parameters)

    return work


def _rate(step: int, steps: int) -> float:
    """Linear warm-up, then a cosine down to 0."""
    warm = max(1, round(WARM_UP * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))

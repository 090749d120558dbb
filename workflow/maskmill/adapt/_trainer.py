"""The one trainer of all heads: seeded batches a step ahead, micro-batches, parameter groups, monitors, exact resume.

A method brings a `HeadTask`. Whatever a step draws (items, coordinates, dropout) comes from generators of (seed,
step), so that a training that stopped goes on as if it had not. A step is split into the micro-batches that the method
makes; each runs on one thread and their gradients are added in order, so no number depends on the threads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from maskmill.adapt._data import on_device
from maskmill.adapt._training import HeadTraining
from maskmill.device import autocast, memory_advice, pinned
from maskmill.numerics.sampling import rng
from maskmill.training.ahead import ahead
from maskmill.training.loop import Task, run
from maskmill.training.team import Number, Team, set_gradients, single_threaded

ROWS = 50  # points of each monitor over a training, at most
Micro = tuple[np.ndarray, ...]
Sent = tuple[torch.Tensor, ...]  # a micro-batch on its way to the device


@dataclass(frozen=True)
class HeadTask:
    """What a method trains, and how.

    Attributes:
        head: the module; every parameter that requires a gradient learns.
        rates: (parameters, learning rate) groups, each with its own, as separate optimisers would have.
        batch: step -> micro-batches of arrays; called in another thread, two steps ahead.
        loss: (micro-batch of tensors, generator of its draws, step) -> (mean loss, its weight, monitors {name: value}).
        before: called with the step before its gradients, for what an epoch starts with (a clustering); the parameters
            that it returns forget their optimiser's state, as those of a new classifier do.
        monitors: names of what `loss` reports, in order. after: called when a step is done (teachers, pools).
        rate: step -> factor of the learning rates. images: a step, for the throughput.
        clip: largest gradient norm. clipped: the parameters whose norm that is; None: all of `rates`.
        largest: entries of the gradient are cut at it. decay_vectors: whether biases and norms, which have one
            dimension, have the weight decay too. undecayed: parameters that have none, of a group of `rates`
            all or none.
        resting: step -> parameters that do not move at this step: neither they nor their optimiser's state change.
    """

    head: nn.Module
    rates: Sequence[tuple[Sequence[nn.Parameter], float]]
    batch: Callable[[int], list[Micro]]
    loss: Callable[[tuple[torch.Tensor, ...], torch.Generator, int], tuple[torch.Tensor, float, Mapping[str, Any]]]
    steps: int
    images: int
    monitors: Sequence[str] = ()
    before: Callable[[int], Sequence[nn.Parameter]] | None = None
    after: Callable[[int], None] | None = None
    rate: Callable[[int], float] = field(default=lambda step: 1.0)
    clip: float = math.inf
    clipped: Sequence[nn.Parameter] | None = None
    weight_decay: float = 0.0
    optimiser: str = "adam"
    largest: float = math.inf
    decay_vectors: bool = True
    undecayed: Sequence[nn.Parameter] = ()
    resting: Callable[[int], Sequence[nn.Parameter]] | None = None


class MonitoredHead(nn.Module):
    """The head and the course of its monitors, which belong to one checkpoint."""

    def __init__(self, head: nn.Module, columns: int) -> None:
        super().__init__()
        self.head = head
        self.monitor: torch.Tensor
        self.register_buffer("monitor", torch.full((ROWS, columns), math.nan, dtype=torch.float64))


def train(task: HeadTask, training: HeadTraining) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Tensors of the head's state, and diagnostics: loss [steps], monitors {name: [rows]}, every (steps a row), timing.

    Raises:
        NumericsError: the loss or a gradient is not finite. StoppedError: SIGTERM or SIGUSR1 came.
    """
    monitored = MonitoredHead(task.head, len(task.monitors)).to(training.device)
    groups = _groups(task)
    learning = [p for parameters, _ in task.rates for p in parameters]
    make = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[task.optimiser]
    optimiser = make(groups, lr=task.rates[0][1], weight_decay=task.weight_decay)
    every = max(1, task.steps // ROWS)

    with single_threaded(training.device, training.threads) as pool:

        def drawn(step: int) -> tuple[int, list[Sent]]:
            return step, [tuple(pinned(array, training.device) for array in micro) for micro in task.batch(step)]

        def gradients(drawn: tuple[int, list[Sent]]) -> Number:
            step, micros = drawn
            with memory_advice("adapt.batch_size", task.images):
                for parameter in task.before(step) if task.before is not None else ():
                    optimiser.state.pop(parameter, None)
            work = _work(task, training, step, learning)
            results: list[Mapping[str, Any]] = [{} for _ in micros]

            def one(numbered: tuple[int, Sent]) -> tuple[Number, Number, tuple[torch.Tensor, ...]]:
                place, micro = numbered
                loss, weight, grads, results[place] = work(place, micro)
                return loss, weight, grads

            with memory_advice("adapt.batch_size", task.images):
                value = set_gradients(learning, list(enumerate(micros)), one, pool, Team())
            for parameter in task.resting(step) if task.resting is not None else ():
                parameter.grad = None
            if task.largest < math.inf:
                torch.nn.utils.clip_grad_value_(learning, task.largest)
            if step % every == 0 and step // every < ROWS:
                _note(monitored, step // every, task.monitors, results)
            return value

        loop = Task(
            network=monitored, optimiser=optimiser,
            batches=lambda start: ahead(drawn, range(start, task.steps)), gradients=gradients, rate=task.rate,
            steps=task.steps, images=task.images, clip=task.clip, clipped=task.clipped, after=task.after,
        )  # fmt: skip
        trained = run(loop, training.keeper, "adapt")
    state = {name.removeprefix("head."): value for name, value in trained.state.items() if name != "monitor"}
    task.head.load_state_dict(state)
    course = (
        monitored.monitor[~torch.isnan(monitored.monitor).all(1)].cpu().numpy() if task.monitors else np.zeros((0, 0))
    )
    diagnostics = {
        "loss": np.array(trained.losses),
        "monitors": {name: course[:, i] for i, name in enumerate(task.monitors)},
        "every": every,
        "timing": trained.timing,
    }
    return {f"head.{name}": value.detach().cpu().numpy() for name, value in state.items()}, diagnostics


def _groups(task: HeadTask) -> list[dict[str, Any]]:
    """Parameter groups; where biases and norms do not decay, they have groups of their own.

    Raises:
        ValueError: a group of which some are `undecayed`, and some are not.
    """
    groups: list[dict[str, Any]] = []
    spared = {id(p) for p in task.undecayed}
    for parameters, rate in task.rates:
        among = [id(p) in spared for p in parameters]
        if any(among) and not all(among):
            raise ValueError(f"{sum(among)} of a group of {len(among)} parameters are undecayed; give them their own")
        if any(among):
            groups.append({"params": list(parameters), "lr": rate, "weight_decay": 0.0})
            continue
        if task.decay_vectors:
            groups.append({"params": list(parameters), "lr": rate})
            continue
        groups.append({"params": [p for p in parameters if p.ndim > 1], "lr": rate})
        groups.append({"params": [p for p in parameters if p.ndim < 2], "lr": rate, "weight_decay": 0.0})
    return groups


def _work(task: HeadTask, training: HeadTraining, step: int, learning: Sequence[nn.Parameter]) -> Callable[..., Any]:
    """(place, micro-batch) -> sum of losses, weight, gradients of the sum, monitors."""

    def work(place: int, micro: Sent) -> tuple[Number, Number, tuple[torch.Tensor, ...], Mapping[str, Any]]:
        draws = generator(training, "draws", str(step), str(place))
        tensors = tuple(on_device(tensor, training.device) for tensor in micro)
        with autocast(training.device):
            loss, weight, monitors = task.loss(tensors, draws, step)
        total = loss * weight
        found = torch.autograd.grad(total, list(learning), allow_unused=True)
        grads = tuple(torch.zeros_like(p) if g is None else g for p, g in zip(learning, found, strict=True))
        return total.detach().double(), weight, grads, monitors

    return work


def _note(monitored: MonitoredHead, row: int, names: Sequence[str], results: Sequence[Mapping[str, Any]]) -> None:
    """The mean of every monitor over the micro-batches."""
    for column, name in enumerate(names):
        values = [float(torch.as_tensor(result[name]).detach()) for result in results if name in result]
        if values:
            monitored.monitor[row, column] = sum(values) / len(values)


def generator(training: HeadTraining, *keys: str) -> torch.Generator:
    """A torch generator of (seed, keys) on the training's device."""
    return torch.Generator(training.device).manual_seed(int(rng(training.seed, "adapt", *keys).integers(2**62)))


def seeded(training: HeadTraining, build: Callable[[], nn.Module]) -> Any:
    """The module with initial weights that depend on the seed only, on the training's device."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng(training.seed, "adapt", "weights").integers(2**62)))
        return build().to(training.device)

"""The one trainer of all heads: seeded batches a step ahead, micro-batches, parameter groups, monitors, exact resume.

A method brings a `Plan`. Whatever a step draws (items, coordinates, dropout) comes from generators of (seed, step), so
that a training that stopped goes on as if it had not. A step is split into the micro-batches that the method makes;
each runs on one thread and their gradients are added in order, so no number depends on the threads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from maskmill.adapt._job import Job
from maskmill.device import memory_advice
from maskmill.numerics.sampling import rng
from maskmill.training.ahead import ahead
from maskmill.training.loop import Task, run
from maskmill.training.team import Team, set_gradients, single_threaded

ROWS = 50  # of the monitor: the course of a training has as many points
Micro = tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Plan:
    """What a method trains, and how.

    Attributes:
        head: the module; every parameter that requires a gradient learns.
        rates: (parameters, learning rate) groups, each with its own, as separate optimisers would have.
        batch: step -> micro-batches of arrays; called in another thread, two steps ahead.
        loss: (micro-batch of tensors, generator of its draws, step) -> (mean loss, its weight, monitors {name: value}).
        before: called with the step before its gradients, for what an epoch starts with (a clustering); the parameters
            that it returns forget their optimiser's state, as those of a new classifier do.
        monitors: names of what `loss` reports, in order. after: called when a step is done (teachers, pools).
        rate: step -> factor of the learning rates. clip: largest gradient norm. images: a step, for the throughput.
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
    weight_decay: float = 0.0
    optimiser: str = "adam"


class Watched(nn.Module):
    """The head and the course of its monitors, which belong to one checkpoint."""

    def __init__(self, head: nn.Module, columns: int) -> None:
        super().__init__()
        self.head = head
        self.monitor: torch.Tensor
        self.register_buffer("monitor", torch.full((ROWS, columns), math.nan, dtype=torch.float64))


def train(plan: Plan, job: Job) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Tensors of the head's state, and diagnostics: loss [steps], monitors {name: [rows]}, every (steps a row), timing.

    Raises:
        NumericsError: the loss or a gradient is not finite. StoppedError: SIGTERM or SIGUSR1 came.
    """
    watched = Watched(plan.head, len(plan.monitors)).to(job.device)
    groups = [{"params": list(parameters), "lr": rate} for parameters, rate in plan.rates]
    learning = [p for parameters, _ in plan.rates for p in parameters]
    make = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[plan.optimiser]
    optimiser = make(groups, lr=plan.rates[0][1], weight_decay=plan.weight_decay)
    every = max(1, plan.steps // ROWS)

    with single_threaded(job.device, job.threads) as pool:

        def gradients(drawn: tuple[int, list[Micro]]) -> float:
            step, micros = drawn
            with memory_advice("adapt.batch_size", plan.images):
                for parameter in plan.before(step) if plan.before is not None else ():
                    optimiser.state.pop(parameter, None)
            work = _work(plan, job, step, learning)
            results: list[Mapping[str, Any]] = [{} for _ in micros]

            def one(numbered: tuple[int, Micro]) -> tuple[float, float, tuple[torch.Tensor, ...]]:
                place, micro = numbered
                loss, weight, grads, results[place] = work(place, micro)
                return loss, weight, grads

            with memory_advice("adapt.batch_size", plan.images):
                value = set_gradients(learning, list(enumerate(micros)), one, pool, Team())
            if step % every == 0 and step // every < ROWS:
                _note(watched, step // every, plan.monitors, results)
            return value

        task = Task(
            network=watched, optimiser=optimiser,
            batches=lambda start: ahead(lambda step: (step, plan.batch(step)), range(start, plan.steps)),
            gradients=gradients, rate=plan.rate, steps=plan.steps, images=plan.images, clip=plan.clip, after=plan.after,
        )  # fmt: skip
        trained = run(task, job.keeper, "adapt")
    state = {name.removeprefix("head."): value for name, value in trained.state.items() if name != "monitor"}
    plan.head.load_state_dict(state)
    course = watched.monitor[~torch.isnan(watched.monitor).all(1)].cpu().numpy() if plan.monitors else np.zeros((0, 0))
    diagnostics = {
        "loss": np.array(trained.losses),
        "monitors": {name: course[:, i] for i, name in enumerate(plan.monitors)},
        "every": every,
        "timing": trained.timing,
    }
    return {f"head.{name}": value.detach().cpu().numpy() for name, value in state.items()}, diagnostics


def _work(plan: Plan, job: Job, step: int, learning: Sequence[nn.Parameter]) -> Callable[..., Any]:
    """(place, micro-batch) -> sum of losses, weight, gradients of the sum, monitors."""

    def work(place: int, micro: Micro) -> tuple[float, float, tuple[torch.Tensor, ...], Mapping[str, Any]]:
        draws = generator(job, "draws", str(step), str(place))
        tensors = tuple(torch.from_numpy(array).to(job.device) for array in micro)
        with torch.autocast(job.device.type, torch.bfloat16, enabled=job.device.type == "cuda"):
            loss, weight, monitors = plan.loss(tensors, draws, step)
        total = loss * weight
        found = torch.autograd.grad(total, list(learning), allow_unused=True)
        grads = tuple(torch.zeros_like(p) if g is None else g for p, g in zip(learning, found, strict=True))
        return float(total.detach()), weight, grads, monitors

    return work


def _note(watched: Watched, row: int, names: Sequence[str], results: Sequence[Mapping[str, Any]]) -> None:
    """The mean of every monitor over the micro-batches."""
    for column, name in enumerate(names):
        values = [float(torch.as_tensor(result[name]).detach()) for result in results if name in result]
        if values:
            watched.monitor[row, column] = sum(values) / len(values)


def generator(job: Job, *keys: str) -> torch.Generator:
    """A torch generator of (seed, keys) on the job's device."""
    return torch.Generator(job.device).manual_seed(int(rng(job.seed, "adapt", *keys).integers(2**62)))


def seeded(job: Job, build: Callable[[], nn.Module]) -> Any:
    """The module with initial weights that depend on the seed only, on the job's device."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng(job.seed, "adapt", "weights").integers(2**62)))
        return build().to(job.device)

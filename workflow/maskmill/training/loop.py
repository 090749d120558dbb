"""The training loop of every student and head: steps, moving average, checkpoints, signals, time waiting for data.

A method brings a network, an optimiser, its batches from any step on, and a function that sets the gradients of one
batch. Batches must be a function of the step alone, so that a training that stopped goes on exactly as if it had not.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from maskmill.errors import NumericsError, UserError
from maskmill.progress import track
from maskmill.training.checkpoint import Checkpoint, Keeper, Signals, pack, signals_noted, unpack
from maskmill.training.team import Team

CLIP = 1.0  # largest norm of a step's gradient, where a method says nothing
# Steps after which losses and norms are read from the device. Reading makes the host wait until the device has done all
# that it was given, so it is not done at every step of CUDA; a number that is not finite then ends the training some
# steps later, but always before a checkpoint or a result is written.
READ = {"cpu": 1, "cuda": 50}


class StoppedError(UserError):
    """The training was told to stop; its checkpoint is written."""


@dataclass
class Task:
    """What a method trains.

    Attributes:
        batches: step -> iterator over the batches of this step and the following ones.
        gradients: batch -> its mean loss, a number or a tensor that is still on its device; sets `.grad` of every
            parameter that learns.
        rate: step -> factor of the optimiser's own learning rate.
        ema: decay of the moving average, 0 for none. images: a step, for the throughput.
        team: the processes that compute a step together.
        clip: largest norm of a step's gradient; infinite: gradients are never scaled.
        clipped: the parameters whose gradient that is; None: all that learn. The others' gradients stay as they are.
        after: called with the step after the optimiser moved, for what follows the weights (a teacher).
    """

    network: nn.Module
    optimiser: torch.optim.Optimizer
    batches: Callable[[int], Iterator[Any]]
    gradients: Callable[[Any], float | torch.Tensor]
    rate: Callable[[int], float]
    steps: int
    images: int
    ema: float = 0.0
    team: Team = field(default_factory=Team)
    clip: float = CLIP
    clipped: Sequence[nn.Parameter] | None = None
    after: Callable[[int], None] | None = None


class Course:
    """The loss of every step; those of the last steps, and the norms of their gradients, may be on the device still.

    Attributes:
        losses: that have been read and are finite.
    """

    def __init__(self, losses: list[float], every: int) -> None:
        self.losses, self.every = losses, every
        self.waiting: list[tuple[float | torch.Tensor, torch.Tensor]] = []

    def __len__(self) -> int:
        return len(self.losses) + len(self.waiting)

    def add(self, loss: float | torch.Tensor, norm: torch.Tensor) -> bool:
        """Note a step; whether it is time to read."""
        self.waiting.append((loss, norm))
        return len(self.waiting) >= self.every

    def read(self) -> str:
        """Take over what has been computed; what is not finite, or nothing."""
        steps, self.waiting = self.waiting, []
        losses, norms = _numbers([loss for loss, _ in steps]), _numbers([norm for _, norm in steps])
        for loss, norm in zip(losses, norms, strict=True):
            if not math.isfinite(loss) or not math.isfinite(norm):
                return f"the loss is {loss}" if not math.isfinite(loss) else f"the gradient is {norm}"
            self.losses.append(loss)
        return ""


def _numbers(values: Sequence[float | torch.Tensor]) -> list[float]:
    """Numbers of the host and of the device; the latter come in one copy."""
    there = [value.detach().double() for value in values if isinstance(value, torch.Tensor)]
    found = iter(torch.stack(there).tolist() if there else [])
    return [next(found) if isinstance(value, torch.Tensor) else float(value) for value in values]


@dataclass
class Trained:
    """Result of `run`: the loss of every step, the final state (averaged where asked for), and the time it took."""

    losses: list[float]
    state: dict[str, torch.Tensor]
    timing: dict[str, float]


def run(task: Task, keeper: Keeper, label: str = "train") -> Trained:
    """Train, from the keeper's checkpoint where there is one.

    Raises:
        NumericsError: the loss or a gradient is not finite; the last checkpoint stays.
        StoppedError: SIGTERM or SIGUSR1 came; a checkpoint was written.
    """
    with signals_noted() as signals:
        return _run(task, keeper, label, signals)


def _run(task: Task, keeper: Keeper, label: str, signals: Signals) -> Trained:
    rates = [group["lr"] for group in task.optimiser.param_groups]
    average = {name: value.detach().clone() for name, value in task.network.state_dict().items()} if task.ema else {}
    done, clock = _restore(task, keeper, average)
    device = next((p.device.type for p in task.network.parameters()), "cpu")
    course = Course(done, READ.get(device, 1))
    first = len(course)
    batches = _timed(task.batches(first), clock)
    started, before = time.monotonic(), clock["seconds"]
    for batch in track(batches, task.steps - first, label):
        step = len(course)
        for group, rate in zip(task.optimiser.param_groups, rates, strict=True):
            group["lr"] = rate * task.rate(step)
        loss = task.gradients(batch)
        if course.add(loss, _clip(task)):
            _read(task, course, keeper)
        task.optimiser.step()
        if task.after is not None:
            task.after(step)
        _move(average, task, step)
        clock["seconds"] = before + time.monotonic() - started
        step = len(course)
        if task.team.any(bool(signals.name)):
            break
        if keeper.due(step):
            _read(task, course, keeper)  # in every process, so that all of them end where one does
        if task.team.leads and keeper.due(step):
            _save(task, keeper, average, course.losses, clock)
    _read(task, course, keeper)
    if len(course) > first:  # with the time that a device took for what it had been given
        clock["seconds"] = before + time.monotonic() - started
    losses = course.losses
    if len(losses) < task.steps:
        if task.team.leads:
            _save(task, keeper, average, losses, clock)
        raise StoppedError(_stopped(signals.name or "a signal", len(losses), task.steps, keeper))
    return Trained(losses, average or task.network.state_dict(), _summary(task, keeper.stage, clock, len(losses)))


def _stopped(name: str, step: int, steps: int, keeper: Keeper) -> str:
    where = f"{keeper.stage}: stopped by {name} after step {step} of {steps}"
    if keeper.path is None:
        return f"{where}; there is no checkpoint, training starts again"
    return f"{where}, checkpoint in {keeper.path}; run the same command again to go on"


def _clip(task: Task) -> torch.Tensor:
    """Clip the gradient; its norm over all parameters that learn, before it was clipped."""
    learning = [p for p in task.network.parameters() if p.requires_grad]
    if task.clipped is None:
        return nn.utils.clip_grad_norm_(learning, task.clip)
    own = {id(p) for p in task.clipped}
    rest = [p for p in learning if id(p) not in own]
    norms = [nn.utils.clip_grad_norm_(task.clipped, task.clip)]
    if rest:
        norms.append(nn.utils.clip_grad_norm_(rest, math.inf))
    return torch.stack(norms).norm()


def _read(task: Task, course: Course, keeper: Keeper) -> None:
    """Read the last steps' numbers; a loss or gradient that is not finite ends the training, nothing is written."""
    what = course.read()
    if not what:
        return
    kept = keeper.path is not None and keeper.path.exists()
    last = f"; the checkpoint of the last good state is kept in {keeper.path}" if kept else ""
    rate, step = task.optimiser.defaults["lr"], len(course.losses) + 1
    others = " or the section's other rates" if len(task.optimiser.param_groups) > 1 else ""
    raise NumericsError(
        f"{keeper.stage}: {what} at step {step}; lower {keeper.stage}.learning_rate (now {rate}){others}{last}"
    )


def _move(average: dict[str, torch.Tensor], task: Task, step: int) -> None:
    """One step of the moving average; its decay rises to `ema`, so that the first weights are soon forgotten."""
    if not average:
        return
    decay = min(task.ema, (1 + step) / (10 + step))
    with torch.no_grad():
        for name, value in task.network.state_dict().items():
            if value.is_floating_point():
                average[name].lerp_(value, 1 - decay)
            else:
                average[name].copy_(value)


def _save(task: Task, keeper: Keeper, average: dict[str, torch.Tensor], losses: list[float], clock: Any) -> None:
    optimiser = {
        f"{index}.{name}": value
        for index, values in task.optimiser.state_dict()["state"].items()
        for name, value in values.items()
        if isinstance(value, torch.Tensor)
    }
    groups = {"network": task.network.state_dict(), "optimiser": optimiser, "average": average}
    tensors = pack(groups) | {"losses": np.array(losses, np.float64)}
    keeper.save(Checkpoint(len(losses), tensors, {"clock": dict(clock)}))


def _restore(task: Task, keeper: Keeper, average: dict[str, torch.Tensor]) -> tuple[list[float], dict[str, float]]:
    """Put network, optimiser and average where they were; (losses so far, clock)."""
    found = keeper.load()
    if found is None:
        return [], {"seconds": 0.0, "waiting": 0.0}
    for target, group in ((task.network.state_dict(), "network"), (average, "average")):
        for name, value in unpack(found.tensors, group).items():
            target[name].copy_(torch.from_numpy(value))  # in place: the memory layout stays, and with it every sum
    state: dict[int, dict[str, torch.Tensor]] = {}
    parameters = [p for group in task.optimiser.param_groups for p in group["params"]]
    for name, value in unpack(found.tensors, "optimiser").items():
        index, key = name.split(".", 1)
        saved = torch.from_numpy(value)
        if saved.shape == parameters[int(index)].shape:
            saved = torch.empty_like(parameters[int(index)]).copy_(saved)
        state.setdefault(int(index), {})[key] = saved
    task.optimiser.load_state_dict(task.optimiser.state_dict() | {"state": state})
    print(
        f"{keeper.stage}: goes on after step {found.step} of {task.steps} ({keeper.path})", file=sys.stderr, flush=True
    )
    return [float(loss) for loss in found.tensors["losses"]], dict(found.facts["clock"])


def _timed(batches: Iterator[Any], clock: dict[str, float]) -> Iterator[Any]:
    """The batches; the time until each is there is added to the clock."""
    while True:
        start = time.monotonic()
        try:
            batch = next(batches)
        except StopIteration:
            return
        clock["waiting"] += time.monotonic() - start
        yield batch


def _summary(task: Task, stage: str, clock: dict[str, float], steps: int) -> dict[str, float]:
    seconds = max(clock["seconds"], 1e-9)
    timing = {
        "seconds": round(seconds, 3),
        "images_per_second": round(steps * task.images / seconds, 3),
        "waiting_share": round(clock["waiting"] / seconds, 4),
    }
    speed = f"{timing['images_per_second']:.1f} images/s"
    if not task.team.leads:
        return timing
    print(
        f"{stage}: {steps} steps of {task.images} images in {seconds:.1f} s, {speed}, "
        f"{100 * timing['waiting_share']:.1f} % of the time waiting for data",
        file=sys.stderr,
        flush=True,
    )
    return timing

"""The one trainer of all methods: views ahead of the device, a step in four parts, schedules, monitors, exact resume.

See `maskmill.pretrain._learner` for the parts of a step. A step's micro-batches run in threads, each on one thread of
torch, and in processes (torchrun); sums are made in their order, so no number depends on how many there are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from maskmill.backbones.learning import drawing, estimate_statistics
from maskmill.device import autocast, memory_advice
from maskmill.images.photos import read_ahead, reader_count
from maskmill.numerics.sampling import rng
from maskmill.pretrain._learner import Learner, Outputs
from maskmill.pretrain._schedules import cosine
from maskmill.pretrain._views import Drawn, Photos, Sampler, Views, pin
from maskmill.pretrain._watch import NAMES, Watch, check_alive
from maskmill.training.ahead import ahead
from maskmill.training.checkpoint import Keeper
from maskmill.training.lars import LARS
from maskmill.training.loop import Task, run
from maskmill.training.team import Number, Team, set_gradients, single_threaded

ROWS = 50  # points of each monitor over a training, at most
SETTLING = 256  # photos from which the statistics of batch norms are taken at the end
Micro = tuple[int, Views, Outputs]


@dataclass(frozen=True)
class Training:
    """What a training is given besides its photos and its method's settings.

    Attributes:
        seed: of weights, order and draws. threads: of the CPU. keeper: where checkpoints go. team: the processes.
        settled: called with the step and the learner after some steps, for measurements that change nothing.
    """

    seed: int
    device: torch.device
    threads: int = 1
    keeper: Keeper = field(default_factory=lambda: Keeper(stage="pretrain"))
    team: Team = field(default_factory=Team)
    settled: Callable[[int, Learner], None] | None = None


class MonitoredLearner(nn.Module):
    """The learner and the course of its monitors, which belong to one checkpoint."""

    def __init__(self, learner: Learner) -> None:
        super().__init__()
        self.learner = learner
        self.monitor: torch.Tensor
        self.register_buffer(
            "monitor", torch.full((ROWS, len(NAMES) + len(learner.monitors)), math.nan, dtype=torch.float64)
        )


def train(learner: Learner, photos: Photos, training: Training) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Train; the weights of the network that the learner exports, in timm's names, and diagnostics.

    Diagnostics: loss [steps], monitors {name: [rows]}, every (steps a row), steps, images (a step), timing.

    Raises:
        NumericsError: the loss or a gradient is not finite, or the features have collapsed. StoppedError: SIGTERM or
            SIGUSR1 came; the checkpoint is written. InputError: a photo has changed.
    """
    monitored = MonitoredLearner(learner).to(training.device).train()
    with single_threaded(training.device, training.threads) as pool:
        step = _Step(monitored, photos, training, pool)
        with memory_advice("pretrain.batch_size", photos.params.batch_size, "use smaller crops"):
            trained = run(step.task(), training.keeper, "pretrain")
            _settle(learner, photos, training.device)
    course = monitored.monitor[~torch.isnan(monitored.monitor).all(1)].cpu().numpy()
    names = [*NAMES, *learner.monitors]
    diagnostics = {
        "loss": np.array(trained.losses),
        "monitors": {name: course[:, i] for i, name in enumerate(names)},
        "every": step.every,
        "steps": photos.params.steps,
        "images": photos.params.batch_size,
        "timing": trained.timing,
    }
    return learner.exported().state(), diagnostics


def _settle(learner: Learner, photos: Photos, device: torch.device) -> None:
    """Give batch norms the statistics that the frozen network uses, of plain views of some photos."""
    chosen = sorted(rng(photos.seed, "settle").permutation(len(photos))[:SETTLING].tolist())
    size = photos.params.micro
    parts = [chosen[i : i + size] for i in range(0, len(chosen), size)]
    whole = [part for part in parts if len(part) == size] or parts
    estimate_statistics(learner.exported(), (photos.plain(part, device) for part in whole))


class _Step:
    """The steps of one training."""

    def __init__(
        self, monitored: MonitoredLearner, photos: Photos, training: Training, pool: ThreadPoolExecutor
    ) -> None:
        self.monitored, self.learner, self.photos = monitored, monitored.learner, photos
        self.training, self.pool, self.params = training, pool, photos.params
        groups = self.learner.groups()
        self.learning = [p for group in groups for p in group.parameters]
        self.decayed = [group.decay for group in groups]
        self.optimiser = _optimiser(
            [{"params": list(g.parameters), "lr": self.params.learning_rate * g.rate} for g in groups], self.params
        )
        self.watch = Watch.of(photos, training.device)
        self.every = max(1, self.params.steps // ROWS)
        self.targets: Any = None
        self.warmup = round(self.params.warmup * self.params.steps)

    def task(self) -> Task:
        """What the training loop runs."""
        return Task(
            network=self.monitored,
            optimiser=self.optimiser,
            batches=self.batches,
            gradients=self.gradients,
            rate=self.rate,
            steps=self.params.steps,
            images=self.params.batch_size,
            team=self.training.team,
            clip=self.params.clip,
            after=lambda step: self.learner.after(self.targets, step),
        )

    def rate(self, step: int) -> float:
        """Factor of the learning rates."""
        p = self.params
        return cosine(step, p.steps, p.learning_rate, p.final_rate, self.warmup) / p.learning_rate

    def batches(self, start: int) -> Iterator[tuple[int, list[Drawn]]]:
        """Views from a step on."""
        sampler = Sampler(self.photos, start, self.training.team)
        workers = reader_count(len(sampler), self.training.threads, self.training.device)
        read = read_ahead(sampler, self.photos.read, workers, ignore_signals=True)

        def sent(numbered: tuple[int, tuple[Any, list[Drawn]]]) -> tuple[int, list[Drawn]]:
            step, (_, drawn) = numbered
            return step, [pin(each, self.training.device) for each in drawn]

        numbered = enumerate(read, start)
        yield from ahead(sent, numbered) if self.training.device.type == "cuda" else map(sent, numbered)

    def gradients(self, batch: tuple[int, list[Drawn]]) -> Number:
        """Set the gradients of a step; its mean loss."""
        step, drawn = batch
        for parameter in self.learner.before(step, self.photos):
            self.optimiser.state.pop(parameter, None)
        if step % self.every == 0 and step // self.every < ROWS:
            self._look(step)
        self._decay(step)
        team, device = self.training.team, self.training.device
        places = list(range(team.rank, team.rank + team.size * len(drawn), team.size))

        def passed(numbered: tuple[int, Drawn]) -> Micro:
            place, one = numbered
            views = self.photos.shown(one, device)
            draws = self._draws(step, place)
            with autocast(device), drawing(draws):
                return place, views, self.learner.outputs(views, draws, step)

        micros = list(self.pool.map(passed, zip(places, drawn, strict=True)))
        with torch.no_grad():
            whole = gathered(team, [self.learner.shared(outputs) for _, _, outputs in micros])
            self.targets = self.learner.targets(whole, step)
        results: dict[int, Mapping[str, torch.Tensor]] = {}

        def work(micro: Micro) -> tuple[Number, Number, tuple[torch.Tensor, ...]]:
            place, _, outputs = micro
            with autocast(device):
                loss, weight, results[place] = self.learner.loss(outputs, self.targets, place, step)
            total = loss * weight
            found = torch.autograd.grad(total, self.learning, allow_unused=True)
            grads = (torch.zeros_like(p) if g is None else g for p, g in zip(self.learning, found, strict=True))
            return total.detach().double(), weight, tuple(grads)

        value = set_gradients(self.learning, micros, work, self.pool, team)
        for parameter in self.learner.idle(step):
            parameter.grad = None
        if step % self.every == 0 and step // self.every < ROWS:
            self._note(step // self.every, [results[place] for place in places])
        return value

    def _draws(self, step: int, place: int) -> torch.Generator:
        seed = int(rng(self.training.seed, "pretrain", "draws", str(step), str(place)).integers(2**62))
        return torch.Generator(self.training.device).manual_seed(seed)

    def _decay(self, step: int) -> None:
        """The weight decay of the step."""
        p = self.params
        last = p.weight_decay if p.final_weight_decay is None else p.final_weight_decay
        now = cosine(step, p.steps, p.weight_decay, last)
        for group, decayed in zip(self.optimiser.param_groups, self.decayed, strict=True):
            group["weight_decay"] = now if decayed else 0.0

    def _look(self, step: int) -> None:
        """Measure the features of fixed photos; a collapse ends the training, after its first looks."""
        found = self.watch.measure(self.learner.exported())
        row = step // self.every
        self.monitored.monitor[row, : len(NAMES)] = torch.tensor([found[name] for name in NAMES], dtype=torch.float64)
        if self.training.settled is not None:
            self.training.settled(step, self.learner)
        if row > 1:
            begun = dict(zip(NAMES, self.monitored.monitor[0, : len(NAMES)].tolist(), strict=True))
            check_alive(found, begun, len(self.watch.first), step)

    def _note(self, row: int, results: Sequence[Mapping[str, torch.Tensor]]) -> None:
        """The means of the method's monitors over the micro-batches of all processes."""
        for column, name in enumerate(self.learner.monitors, len(NAMES)):
            told = [torch.as_tensor(result[name]).detach().double() for result in results]
            values = torch.stack([value.to(self.training.device) for value in told])
            (total,), _, count = self.training.team.add([values.sum()[None]], 0.0, float(len(values)))
            self.monitored.monitor[row, column] = float(total) / float(count)


def gathered(team: Team, mine: Sequence[Outputs]) -> dict[str, list[torch.Tensor]]:
    """What all micro-batches of a step have shared, in their order, by name; the same in every process."""
    names = sorted(mine[0]) if mine else []
    return {name: team.gather([outputs[name].detach() for outputs in mine]) for name in names}


def _optimiser(groups: list[dict[str, Any]], params: Any) -> torch.optim.Optimizer:
    """The optimiser of a section; weight decay is set at every step."""
    rate = params.learning_rate
    if params.optimiser == "adamw":
        return torch.optim.AdamW(groups, lr=rate, weight_decay=0.0)
    if params.optimiser == "adam":
        return torch.optim.Adam(groups, lr=rate)
    if params.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=rate, momentum=params.momentum)
    return LARS(groups, lr=rate, momentum=params.momentum, form=params.optimiser)

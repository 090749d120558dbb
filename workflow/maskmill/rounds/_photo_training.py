"""What networks on photos share: the start from an encoder's weights, the order of crops, training, the result."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import nn

from maskmill.device import memory_advice
from maskmill.errors import StoreError
from maskmill.images.photos import read_ahead, reader_count
from maskmill.numerics.sampling import rng
from maskmill.recipe.sections import FeatureSet
from maskmill.rounds._classes import ABSENT_BIAS
from maskmill.rounds._job import Job
from maskmill.rounds._layers import freeze
from maskmill.store.artefact import read_tensors
from maskmill.training.loop import Task, Trained, run
from maskmill.training.team import Team, Work, set_gradients, single_threaded

N = TypeVar("N", bound=nn.Module)
PREFIX = "network."  # of the network's tensors in a student's file


class StepSettings(Protocol):
    """What a method's `Params` say of its steps: how many, crops in each, decay of the weights' moving average."""

    @property
    def steps(self) -> int: ...

    @property
    def batch_size(self) -> int: ...

    @property
    def ema(self) -> float: ...


class Plan(Sequence[list[tuple[int, int, int]]]):
    """Which draws make up a step: (step, place in it, image); every image once an epoch, in an order of the seed.

    A step is a function of its number, so a training goes on anywhere. With several processes each sees its share.
    """

    def __init__(self, images: int, params: StepSettings, seed: int, start: int, team: Team) -> None:
        self.images, self.size, self.steps = images, params.batch_size, params.steps
        self.seed, self.start, self.team = seed, start, team
        self._order: tuple[int, np.ndarray] = (-1, np.zeros(0, np.int64))

    def __len__(self) -> int:
        return self.steps - self.start

    def __getitem__(self, i: Any) -> Any:
        if not 0 <= i < len(self):
            raise IndexError(i)
        step = self.start + i
        draws = [(step, place, self._image(step * self.size + place)) for place in range(self.size)]
        return list(self.team.share(draws))

    def _image(self, position: int) -> int:
        epoch, place = divmod(position, self.images)
        if epoch != self._order[0]:
            self._order = epoch, rng(self.seed, "epoch", str(epoch)).permutation(self.images)
        return int(self._order[1][place])


def initial(
    weights: str | Path,
    build: Callable[[str], N],
    before: Callable[[Mapping[str, np.ndarray], N], Mapping[str, torch.Tensor]],
    unfrozen: int,
    job: Job,
) -> tuple[N, dict[str, Any]]:
    """The network at its first step, and the encoder's facts.

    Args:
        weights: file of the encoder's weights. build: architecture -> network with random weights and an `encoder`.
        before: weights of the student to go on from, from its tensors.
    """
    from maskmill.backbones.network import load

    state, facts = read_tensors(weights)
    if "architecture" not in facts:
        load(weights, FeatureSet(backbone="?"), job.device)  # says what is wrong with the file
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng(job.seed, "weights").integers(2**62)))
        network = build(facts["architecture"])
    encoder: Any = network.encoder
    if job.before:
        network.load_state_dict(before(job.before, network))
    else:
        encoder.load_state_dict({name: torch.from_numpy(value) for name, value in state.items()}, strict=False)
        missing = [name for name in encoder.state_dict() if name not in state]
        if missing:
            raise StoreError(f"{weights}: lacks {missing[0]} of {facts['architecture']}; delete it and run again")
    freeze(encoder, unfrozen)
    return network.train(), {key: facts[key] for key in ("architecture", "mean", "std")}


def learning_of(network: nn.Module) -> list[nn.Parameter]:
    """The parameters that learn."""
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def train(
    network: nn.Module,
    images: int,
    read: Callable[[list[tuple[int, int, int]]], list[Any]],
    work: Work,
    optimiser: torch.optim.Optimizer,
    rate: Callable[[int], float],
    params: StepSettings,
    job: Job,
) -> Trained:
    """Train on crops that are decoded ahead; `read` turns the draws of a step into micro-batches for `work`."""
    learning = learning_of(network)

    def batches(start: int) -> Iterator[list[Any]]:
        plan = Plan(images, params, job.seed, start, job.team)
        workers = reader_count(len(plan), job.threads, job.device)
        return (crops for _, crops in read_ahead(plan, read, workers, ignore_signals=True))

    with single_threaded(job.device, job.threads) as pool, memory_advice("rounds.batch_size", params.batch_size):
        task = Task(
            network,
            optimiser,
            batches=batches,
            gradients=lambda batch: set_gradients(learning, batch, work, pool, job.team),
            rate=rate,
            steps=params.steps,
            images=params.batch_size,
            ema=params.ema,
            team=job.team,
        )
        return run(task, job.keeper)


def tensors_of(trained: Trained, counts: np.ndarray) -> tuple[dict[str, np.ndarray], int]:
    """Tensors for the student's file, and the number of classes without an example, which are never predicted."""
    state = {name: value.detach().cpu().clone() for name, value in trained.state.items()}
    absent = torch.from_numpy(counts == 0)
    state["classify.weight"][absent] = 0.0
    state["classify.bias"][absent] = ABSENT_BIAS
    return {PREFIX + name: value.contiguous().numpy() for name, value in state.items()}, int(absent.sum())


def state_of(tensors: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """The network's weights in a student's file."""
    return {key[len(PREFIX) :]: torch.from_numpy(v) for key, v in tensors.items() if key.startswith(PREFIX)}


def normalise(images: torch.Tensor, facts: Mapping[str, Any]) -> torch.Tensor:
    """uint8 RGB [n, H, W, 3] -> the encoder's input [n, 3, H, W] float32."""
    mean, std = (torch.tensor(facts[key], device=images.device).view(1, 3, 1, 1) for key in ("mean", "std"))
    x = (images.permute(0, 3, 1, 2).float() / 255 - mean) / std
    return x.contiguous(memory_format=torch.channels_last)

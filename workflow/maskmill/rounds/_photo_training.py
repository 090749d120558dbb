"""What networks on photos share: the start from an encoder's weights, the order of crops, training, the result."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import nn

from maskmill.backbones import weights_file
from maskmill.device import memory_advice
from maskmill.errors import StoreError
from maskmill.images.photos import read_ahead, reader_count
from maskmill.numerics.sampling import rng
from maskmill.rounds._classes import ABSENT_BIAS
from maskmill.rounds._layers import freeze
from maskmill.rounds._training import StudentTraining
from maskmill.training.ahead import ahead
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


class CropSampler(Sequence[list[tuple[int, int, int]]]):
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
    training: StudentTraining,
) -> tuple[N, dict[str, Any]]:
    """The network at its first step, and the encoder's facts.

    Args:
        weights: file of the encoder's weights. build: architecture -> network with random weights and an `encoder`.
        before: weights of the student to go on from, from its tensors.
    """
    state, facts = weights_file.read(weights)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng(training.seed, "weights").integers(2**62)))
        network = build(facts["architecture"])
    encoder: Any = network.encoder
    if training.before:
        network.load_state_dict(before(training.before, network))
    else:
        encoder.load_state_dict(state, strict=False)
        missing = [name for name in encoder.state_dict() if name not in state]
        if missing:
            raise StoreError(f"{weights}: lacks {missing[0]} of {facts['architecture']}; delete it and run again")
    freeze(encoder, unfrozen)
    return network.train(), {key: facts[key] for key in ("architecture", "mean", "std")}


def learning_of(network: nn.Module) -> list[nn.Parameter]:
    """The parameters that learn."""
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


@dataclass(frozen=True)
class CropTask:
    """What a method trains on crops of photos.

    Attributes:
        network: its parameters that require a gradient learn. images: number of photos.
        read: draws of a step, as `CropSampler` gives them -> its micro-batches, in a process that decodes ahead.
        send: a micro-batch as it was read -> what `work` takes, with tensors that the device need not wait for.
        work: see `maskmill.training.team.Work`. rate: step -> factor of the optimiser's own learning rate.
    """

    network: nn.Module
    images: int
    read: Callable[[list[tuple[int, int, int]]], list[Any]]
    send: Callable[[Any], Any]
    work: Work
    optimiser: torch.optim.Optimizer
    rate: Callable[[int], float]


def train(task: CropTask, params: StepSettings, training: StudentTraining) -> Trained:
    """Train on crops that are decoded ahead."""
    learning = learning_of(task.network)

    def batches(start: int) -> Iterator[list[Any]]:
        sampler = CropSampler(task.images, params, training.seed, start, training.team)
        workers = reader_count(len(sampler), training.threads, training.device)
        read = (crops for _, crops in read_ahead(sampler, task.read, workers, ignore_signals=True))

        def sent(crops: list[Any]) -> list[Any]:
            return [task.send(part) for part in crops]

        return ahead(sent, read) if training.device.type == "cuda" else map(sent, read)  # pinning copies

    with (
        single_threaded(training.device, training.threads) as pool,
        memory_advice("rounds.batch_size", params.batch_size),
    ):
        steps = Task(
            task.network,
            task.optimiser,
            batches=batches,
            gradients=lambda batch: set_gradients(learning, batch, task.work, pool, training.team),
            rate=task.rate,
            steps=params.steps,
            images=params.batch_size,
            ema=params.ema,
            team=training.team,
        )
        return run(steps, training.keeper)


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


@lru_cache(16)
def _channels(values: tuple[float, ...], device: torch.device) -> torch.Tensor:
    """One number a channel [1, 3, 1, 1]; it stays on the device, for the next step."""
    with torch.inference_mode(False):  # also where prediction comes before training
        return torch.tensor(values, device=device).view(1, 3, 1, 1)


def normalise(images: torch.Tensor, facts: Mapping[str, Any]) -> torch.Tensor:
    """uint8 RGB [n, H, W, 3] -> the encoder's input [n, 3, H, W] float32."""
    mean, std = (_channels(tuple(facts[key]), images.device) for key in ("mean", "std"))
    x = (images.permute(0, 3, 1, 2).float() / 255 - mean) / std
    return x.contiguous(memory_format=torch.channels_last)

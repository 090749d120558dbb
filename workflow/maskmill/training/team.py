"""Micro-batches over threads and processes: gradients are added in a fixed order, whatever computes them.

With torchrun every process takes every n-th micro-batch of a step and the sums are added between the processes
(NCCL on CUDA, gloo on the CPU). All processes hold the same weights and take the same decisions; the first one writes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

T = TypeVar("T")
Number = float | torch.Tensor  # of the host, or one that is still on its device: reading it makes the host wait
Work = Callable[
    [Any], tuple[Number, Number, tuple[torch.Tensor, ...]]
]  # micro-batch -> sum of losses, weight, gradients


@dataclass(frozen=True)
class Team:
    """The processes of one training; one process is the normal case."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes files and says things."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Every size-th item, starting with the rank-th."""
        return items if self.size == 1 else items[self.rank :: self.size]

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        if self.size == 1:
            return flag
        device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else "cpu"
        value = torch.tensor(float(flag), device=device)
        torch.distributed.all_reduce(value)
        return bool(value > 0)

    def add(
        self, gradients: list[torch.Tensor], loss: Number, weight: Number
    ) -> tuple[list[torch.Tensor], Number, Number]:
        """Sums over the processes, in one message."""
        if self.size == 1:
            return gradients, loss, weight
        device = gradients[0].device
        numbers = torch.stack([torch.as_tensor(one, dtype=torch.float32, device=device) for one in (loss, weight)])
        flat = torch.cat([numbers, *(gradient.flatten().float() for gradient in gradients)])
        torch.distributed.all_reduce(flat)
        parts = flat[2:].split([gradient.numel() for gradient in gradients])
        added = [part.view(gradient.shape) for part, gradient in zip(parts, gradients, strict=True)]
        sums = flat[:2].double()
        return added, sums[0], sums[1]

    def gather(self, mine: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The tensors of all processes, in the order of the items that `share` has dealt out; the same in each.

        Args:
            mine: those of this process, of one type and with equal sizes but for the first.
        """
        if self.size == 1:
            return list(mine)
        lists: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(lists, [tensor.cpu() for tensor in mine])
        device = mine[0].device if mine else torch.device("cpu")
        count = sum(map(len, lists))
        return [lists[place % self.size][place // self.size].to(device) for place in range(count)]


def join(device: str) -> tuple[Team, str]:
    """The team that torchrun started, and this process's device; alone without torchrun."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return Team(), device
    cuda = device != "cpu" and torch.cuda.is_available()
    if cuda:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("nccl" if cuda else "gloo")
    return Team(int(os.environ["RANK"]), size), device if cuda else "cpu"


def leave(team: Team) -> None:
    """End of the processes' common work."""
    if team.size > 1 and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def set_gradients(
    parameters: Sequence[torch.nn.Parameter], batch: Sequence[Any], work: Work, pool: ThreadPoolExecutor, team: Team
) -> Number:
    """Compute the micro-batches of this process, add everything up, set `.grad`; the mean loss of the whole step."""
    results = list(pool.map(work, batch))
    if results:
        gradients = list(results[0][2])
        for _, _, more in results[1:]:
            gradients = [gradient + own for gradient, own in zip(gradients, more, strict=True)]
    else:
        gradients = [torch.zeros_like(parameter) for parameter in parameters]
    loss, weight = sum(part[0] for part in results), sum(part[1] for part in results)
    gradients, loss, weight = team.add(gradients, loss, weight)
    weight = weight.clamp_min(1e-6) if isinstance(weight, torch.Tensor) else max(weight, 1e-6)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient / weight
    return loss / weight


class single_threaded:  # noqa: N801 (a context manager, used like a function)
    """A pool of `threads` workers whose torch operations run on one thread each, so that sums never depend on it.

    On CUDA there is one worker, and cuDNN is held to its deterministic kernels.
    """

    def __init__(self, device: torch.device, threads: int) -> None:
        self.workers = 1 if device.type == "cuda" else max(1, threads)

    def __enter__(self) -> ThreadPoolExecutor:
        self.before = torch.get_num_threads(), torch.backends.cudnn.deterministic
        torch.set_num_threads(1)
        torch.backends.cudnn.deterministic = True
        self.pool = ThreadPoolExecutor(self.workers, initializer=torch.set_num_threads, initargs=(1,))
        return self.pool

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown()
        torch.set_num_threads(self.before[0])
        torch.backends.cudnn.deterministic = self.before[1]

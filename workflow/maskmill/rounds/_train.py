"""Training of the token head: seeded batches, micro-batches as the unit of parallelism, AdamW, cosine schedule."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import nn

from maskmill.device import memory_advice
from maskmill.errors import NumericsError
from maskmill.progress import track
from maskmill.rounds._data import Images
from maskmill.rounds.token_head import Params, build
from maskmill.sampling import rng

MICRO = 4  # images of a micro-batch
WARM_UP = 0.05  # share of the steps with a rising learning rate
NEVER = -1e4  # bias of a class without a single cell in the masks: it is never predicted
Draw = tuple[list[int], np.ndarray]  # images of a micro-batch, their channel mask [n, inputs]


def train_head(
    images: Images, classes: int, params: Params, seed: int, device: torch.device, threads: int
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """See `token_head.fit`."""
    inputs = sum(projection.weight.shape[1] for projection in images.projections.values())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng(seed, "weights").integers(2**62)))
        head = build(inputs, classes, params).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(head.parameters(), lr=params.learning_rate, weight_decay=params.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step, params.steps))
    weights = class_weights(images.counts, params.balance)
    losses = []
    with _single_threaded(device, threads) as pool, memory_advice("rounds.batch_size", params.batch_size):
        for batch in track(batches(images, params, inputs, seed), params.steps, "train"):
            losses.append(_step(head, images, batch, weights, params, device, pool))
            optimiser.step()
            schedule.step()
            if not math.isfinite(losses[-1]):
                raise NumericsError(
                    f"rounds: the loss is {losses[-1]} at step {len(losses)}; lower rounds.learning_rate "
                    f"(now {params.learning_rate})"
                )
    absent = torch.from_numpy(images.counts == 0).to(device)
    with torch.no_grad():
        head.get_parameter("classify.weight")[absent] = 0.0
        head.get_parameter("classify.bias")[absent] = NEVER
    tensors = {
        f"head.{key}": value.detach().float().cpu().contiguous().numpy() for key, value in head.state_dict().items()
    }
    return tensors, {"loss": losses, "images": len(images), "absent": int((images.counts == 0).sum())}


def batches(images: Images, params: Params, inputs: int, seed: int) -> Iterator[list[Draw]]:
    """`steps` lists of micro-batches (images, channel mask); every image once an epoch, in an order of the seed."""
    generator = rng(seed, "batches")
    queue: list[int] = []
    for _ in range(params.steps):
        while len(queue) < params.batch_size:
            queue += [int(i) for i in generator.permutation(len(images))]
        chosen, queue = queue[: params.batch_size], queue[params.batch_size :]
        keep = generator.random((len(chosen), inputs)) >= params.dropout
        masks = (keep / (1 - params.dropout)).astype(np.float32)
        yield [(chosen[a : a + MICRO], masks[a : a + MICRO]) for a in range(0, len(chosen), MICRO)]


def collate(images: Images, chosen: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
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


def class_weights(counts: np.ndarray, balance: float) -> np.ndarray:
    """Frequency ** -balance [classes] float32, scaled so that the mean over all known cells is 1; absent classes 0."""
    share = counts / counts.sum()
    weights = np.where(counts > 0, np.maximum(share, 1e-12) ** -balance, 0)
    return (weights / (weights * share).sum()).astype(np.float32)


def soft_cross_entropy(
    logits: torch.Tensor, target: torch.Tensor, weights: torch.Tensor, smoothing: float
) -> torch.Tensor:
    """Sum over cells of - sum_c w_c t_c log p_c; smoothing moves that share of t evenly to the classes with w > 0.

    Args:
        logits, target: [n, classes, h, w]; target holds class shares, its sum is the known share of a cell.
        weights: [classes].
    """
    logp = nn.functional.log_softmax(logits.float(), dim=1)
    weighted = target * weights[None, :, None, None]
    loss = -(weighted * logp).sum()
    if smoothing > 0:
        present = (weights > 0).float()
        even = (logp * (present / present.sum())[None, :, None, None]).sum(dim=1)
        loss = (1 - smoothing) * loss - smoothing * (weighted.sum(dim=1) * even).sum()
    return loss


def _step(
    head: nn.Module,
    images: Images,
    batch: list[Draw],
    class_weight: np.ndarray,
    params: Params,
    device: torch.device,
    pool: ThreadPoolExecutor,
) -> float:
    """Set the gradients of one step; the mean loss over the known cells of the batch."""
    weights = torch.from_numpy(class_weight).to(device)
    parameters = list(head.parameters())

    def work(draw: Draw) -> tuple[float, float, tuple[torch.Tensor, ...]]:
        x, valid, target = (torch.from_numpy(array).to(device) for array in collate(images, draw[0]))
        x = x * torch.from_numpy(draw[1])[:, :, None, None].to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits = head(x.contiguous(memory_format=torch.channels_last), valid)
        loss = soft_cross_entropy(logits, target, weights, params.label_smoothing)
        cells = float((target * weights[None, :, None, None]).sum())
        return float(loss.detach()), cells, torch.autograd.grad(loss, parameters)

    results = list(pool.map(work, batch))
    total = max(sum(cells for _, cells, _ in results), 1e-6)
    for i, parameter in enumerate(parameters):
        gradient = results[0][2][i]
        for _, _, gradients in results[1:]:
            gradient = gradient + gradients[i]
        parameter.grad = gradient / total
    nn.utils.clip_grad_norm_(parameters, 1.0)
    return sum(loss for loss, _, _ in results) / total


def _rate(step: int, steps: int) -> float:
    """Linear warm-up, then a cosine down to 0."""
    warm = max(1, round(WARM_UP * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


class _single_threaded:  # noqa: N801 (a context manager, used like a function)
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

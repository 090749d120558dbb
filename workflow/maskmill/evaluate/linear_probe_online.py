"""STEGO's linear probe: a linear classifier on frozen features, trained with batches of images and Adam.

Hamilton et al., "Unsupervised semantic segmentation by distilling feature correspondences" (ICLR 2022), and its code
(train_segmentation.py): a 1x1 convolution on detached codes, cross-entropy, Adam with rate 5e-3. The published training
runs beside that of the head, so that its codes still change; here they are those of the finished head. It ends after a
number of steps and not where the loss does: its score depends on the length of the tokens and on the rate, which
`linear_probe` does not. It is there to compare with published figures.

The published logits are interpolated to the pixels before the loss. Here the logits of a token meet the distribution of
the classes over its own pixels, as in `linear_probe`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from maskmill.device import pick
from maskmill.errors import NumericsError
from maskmill.evaluate.linear_probe import MAX_TOKENS, Linear, sampled
from maskmill.evaluate.readout import Half, Reading
from maskmill.numerics.blocks import one_thread
from maskmill.numerics.sampling import batch_rows, rng
from maskmill.progress import track
from maskmill.recipe.scoring import Evaluate, OnlineProbe

if TYPE_CHECKING:
    import torch

KEY = "linear_probe_online"


def learn(half: Half, settings: Evaluate, seed: int, threads: int) -> Reading:
    """Train the probe; see `readout.Readout`."""
    params = settings.linear_probe_online or OnlineProbe()
    tokens, mass = sampled(half, MAX_TOKENS, seed)
    seen = [i for i, x in enumerate(tokens) if len(x)]
    model, loss = train([tokens[i] for i in seen], [mass[i] for i in seen], params, seed)
    details = {"max_tokens": MAX_TOKENS, **params.model_dump(mode="json")}
    return Reading(model, details, {"loss": loss, "tokens": float(sum(map(len, tokens)))})


def start(depth: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Weight [d, classes] and bias [classes], float32, at first: uniform within 1 / sqrt(d), as torch's Conv2d."""
    draws, bound = rng(seed, KEY, "start"), depth**-0.5
    weight = draws.uniform(-bound, bound, (depth, classes)).astype(np.float32)
    return weight, draws.uniform(-bound, bound, classes).astype(np.float32)


def train(
    tokens: Sequence[np.ndarray], mass: Sequence[np.ndarray], params: OnlineProbe, seed: int, device: str = "auto"
) -> tuple[Linear, float]:
    """The classifier after `steps` batches, and the loss of the last one.

    Args:
        tokens: [m, d] float32 of every image. mass: [m, classes] float32, the weight of each class in each token.

    Raises:
        NumericsError: the loss is not finite.
    """
    import torch

    place = pick(device)
    x, y = ([torch.from_numpy(part).to(place) for part in parts] for parts in (tokens, mass))
    first = start(x[0].shape[1], y[0].shape[1], seed)
    weight, bias = (torch.from_numpy(part).to(place).requires_grad_() for part in first)
    optimiser = torch.optim.Adam([weight, bias], lr=params.learning_rate)
    value = torch.zeros(())
    with one_thread():  # no sum depends on the number of threads
        for step in track(range(params.steps), params.steps, "probe: step"):
            chosen = batch_rows(step, params.batch_size, len(x), seed, KEY)
            rows, wanted = (torch.cat([parts[i] for i in chosen]) for parts in (x, y))
            value = loss(rows @ weight + bias, wanted)
            optimiser.zero_grad()
            value.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    if not torch.isfinite(value):
        raise NumericsError(f"{KEY}: the loss is not finite; check the features for extreme values")
    return Linear(weight.detach().cpu().numpy(), bias.detach().cpu().numpy()), float(value.detach())


def loss(logits: torch.Tensor, mass: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy over scored pixels, a scalar; of logits and the mass of each class, both [m, classes]."""
    return -(mass * logits.log_softmax(1)).sum() / mass.sum()

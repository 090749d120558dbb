"""The linear probe: how much a linear classifier reads out of frozen features. An upper mark for clusterings of them.

The codes of a head are probed as the feature set that it was learnt on, so that the difference is what the head did.

Multinomial logistic regression is fitted on the tokens of one half of the labelled images (see `readout`) and scored
on the pixels of the other. A token's target is the share of each class among the pixels it covers, weighted by its
share of scored pixels: the cross-entropy of its pixels, without the pixels. The problem is convex, full-batch L-BFGS
solves it, nothing is random but which tokens are drawn when there are too many.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from maskmill.device import pick
from maskmill.errors import NumericsError
from maskmill.evaluate.readout import Half, Reading, no_pixel
from maskmill.numerics.blocks import ordered
from maskmill.numerics.sampling import rng
from maskmill.progress import track
from maskmill.recipe.scoring import Evaluate

MAX_TOKENS = 200_000  # training tokens in memory
PENALTY = 1e-4  # on the squared weights, per standardised feature, against the mean cross-entropy
ITERATIONS = 200
ROWS = 8192  # whose gradient is computed at once


@dataclass(frozen=True)
class Linear:
    """A linear classifier on raw features: weight [d, classes], bias [classes], float32."""

    weight: np.ndarray
    bias: np.ndarray

    def scores(self, tokens: np.ndarray) -> np.ndarray:
        """Scores [classes, h, w] of tokens [h, w, d]."""
        h, w, d = tokens.shape
        flat = self.weight.T @ tokens.reshape(h * w, d).astype(np.float32).T + self.bias[:, None]
        return flat.reshape(-1, h, w)


def learn(half: Half, settings: Evaluate, seed: int, threads: int) -> Reading:
    """Fit the probe; see `readout.Readout`."""
    x, y = sampled(half, MAX_TOKENS, seed)
    model, diagnostics = fit(np.concatenate(x), np.concatenate(y), threads)
    return Reading(model, {"max_tokens": MAX_TOKENS, "l2": PENALTY}, diagnostics)


def sampled(half: Half, limit: int, seed: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Tokens [m, d] and target mass [m, classes], float32, of every image: `limit` tokens in all, evenly over images.

    A token without a scored pixel has no target and is left out, so that an image may have none.
    """
    quota = max(1, limit // len(half.ids))
    x, y = [], []
    for image_id, tokens, mass in track(half.images(), len(half.ids), "tokens"):
        usable = np.flatnonzero(mass.any(axis=1))
        if len(usable) > quota:
            usable = np.sort(rng(seed, image_id).choice(usable, quota, replace=False))
        x.append(tokens[usable].astype(np.float32))
        y.append(mass[usable])
    if not sum(map(len, x)):
        raise no_pixel()
    return x, y


def fit(x: np.ndarray, y: np.ndarray, threads: int = 1, device: str = "auto") -> tuple[Linear, dict[str, float]]:
    """Penalised multinomial logistic regression by full-batch L-BFGS.

    Args:
        x: [m, d] float32. y: [m, classes] float32, the weight of each class in each row.

    Returns:
        The classifier on raw features, and loss, largest gradient and iterations.

    Raises:
        NumericsError: the loss is not finite.
    """
    import torch

    torch.set_num_threads(1)  # rows are split by hand, so that no sum depends on the threads
    place = pick(device)
    mean, scale = x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64)
    scale = np.where(scale > 1e-6 * max(scale.max(initial=0), 1e-30), scale, 1.0)  # constant features stay silent
    inputs = torch.from_numpy(((x - mean) / scale).astype(np.float32)).to(place)
    targets = torch.from_numpy(y / y.sum(dtype=np.float64)).float().to(place)  # [m, classes], sums to 1
    weight = torch.zeros(x.shape[1], y.shape[1], device=place, requires_grad=True)
    bias = torch.zeros(y.shape[1], device=place, requires_grad=True)
    solver = torch.optim.LBFGS(
        [weight, bias], max_iter=ITERATIONS, tolerance_grad=1e-6, tolerance_change=1e-9, line_search_fn="strong_wolfe"
    )

    blocks = list(zip(inputs.split(ROWS), targets.split(ROWS), strict=True))
    workers = 1 if place.type == "cuda" else min(threads, len(blocks))

    def part(block: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """Cross-entropy of some rows, and its gradients."""
        with torch.no_grad():
            rows, wanted = block
            log = torch.log_softmax(rows @ weight + bias, dim=1)
            pull = log.exp() * wanted.sum(1, keepdim=True) - wanted
            return -(wanted * log).sum(), rows.T @ pull, pull.sum(0)

    def closure() -> torch.Tensor:
        sums = [2 * PENALTY * weight.detach(), torch.zeros_like(bias)]
        loss = PENALTY * weight.detach().square().sum()
        for entropy, *slopes in ordered(part, blocks, workers):
            loss = loss + entropy
            sums = [before + more for before, more in zip(sums, slopes, strict=True)]
        weight.grad, bias.grad = sums
        return loss

    solver.step(closure)  # type: ignore[no-untyped-call]
    loss = float(closure())
    if not np.isfinite(loss):
        raise NumericsError("linear probe: the loss is not finite; check the features for extreme values")
    gradient = max(float(p.grad.abs().max()) for p in (weight, bias) if p.grad is not None)
    raw = weight.detach().double().cpu().numpy() / scale[:, None]
    model = Linear(raw.astype(np.float32), (bias.detach().double().cpu().numpy() - mean @ raw).astype(np.float32))
    steps = float(solver.state[weight].get("n_iter", 0))
    return model, {"loss": loss, "gradient": gradient, "iterations": steps, "tokens": float(len(x))}

"""Penalised multinomial logistic regression, solved by full-batch L-BFGS: convex, so that nothing is random."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from maskmill.device import pick
from maskmill.errors import NumericsError
from maskmill.numerics.blocks import ordered

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


def probabilities(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Softmax [n, K] float32 of points [n, d] under weights [d, K] and a bias [K]; NaN where a point is not finite."""
    logits = x @ weight + bias
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(odds / odds.sum(axis=1, keepdims=True))


def fit(
    x: np.ndarray, y: np.ndarray, penalty: float, threads: int = 1, device: str = "auto", stage: str = "linear probe"
) -> tuple[Linear, dict[str, float]]:
    """The classifier of the least mean cross-entropy plus `penalty` times the squared weights of standardised features.

    Args:
        x: [m, d] float32. y: [m, classes] float32, the weight of each class in each row.
        stage: for messages.

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
        sums = [2 * penalty * weight.detach(), torch.zeros_like(bias)]
        loss = penalty * weight.detach().square().sum()
        for entropy, *slopes in ordered(part, blocks, workers):
            loss = loss + entropy
            sums = [before + more for before, more in zip(sums, slopes, strict=True)]
        weight.grad, bias.grad = sums
        return loss

    solver.step(closure)  # type: ignore[no-untyped-call]
    loss = float(closure())
    if not np.isfinite(loss):
        raise NumericsError(f"{stage}: the loss is not finite; check the features for extreme values")
    gradient = max(float(p.grad.abs().max()) for p in (weight, bias) if p.grad is not None)
    raw = weight.detach().double().cpu().numpy() / scale[:, None]
    model = Linear(raw.astype(np.float32), (bias.detach().double().cpu().numpy() - mean @ raw).astype(np.float32))
    steps = float(solver.state[weight].get("n_iter", 0))
    return model, {"loss": loss, "gradient": gradient, "iterations": steps, "tokens": float(len(x))}

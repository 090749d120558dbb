"""Assignments that use all prototypes alike: Sinkhorn and Knopp's iterations, as SwAV, DINO and Leopart use them."""

from __future__ import annotations

import math

import torch


@torch.no_grad()
def sinkhorn(scores: torch.Tensor, iterations: int = 3, weights: torch.Tensor | None = None) -> torch.Tensor:
    """Soft assignments of rows to columns of which every column gets about as much (SwAV, equation 3 to 5).

    Computed with logarithms, so that no score overflows.

    Args:
        scores: [n, k], already divided by the temperature. iterations: of scaling columns, then rows.
        weights: [n], how much each row counts for the columns; None: all alike.

    Returns:
        [n, k] float32, rows add up to one.
    """
    logs = scores.float()
    if not len(logs):
        return logs
    share = torch.full((len(logs),), -math.log(len(logs)), device=logs.device)
    if weights is not None:
        share = (weights.float() / weights.float().sum()).log()
    k = logs.shape[1]
    logs = logs + (share + math.log(len(logs)))[:, None]
    for _ in range(iterations):
        logs = logs - logs.logsumexp(0, keepdim=True) - math.log(k)
        logs = logs - logs.logsumexp(1, keepdim=True) + share[:, None]
    return (logs - logs.logsumexp(1, keepdim=True)).exp()

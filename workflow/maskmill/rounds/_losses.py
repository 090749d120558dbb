"""Losses by name. Each gives the sum over cells and the weight that it is divided by, so that micro-batches add up.

    loss(logits [n, c, h, w], target [n, c, h, w], weights [c], settings, smoothing) -> (sum, weight)

The target holds class shares: its sum over classes is the known share of a cell, 0 where the mask says ignore or the
batch is padded. Classes weigh `weights`; 0 for a class without a cell.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from maskmill.rounds._settings import Training

Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, Training, float], tuple[torch.Tensor, torch.Tensor]]


def cross_entropy(
    logits: torch.Tensor, target: torch.Tensor, weights: torch.Tensor, settings: Training, smoothing: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """- sum_c w_c t_c log p_c over all cells; smoothing moves that share of t evenly to the classes with w > 0."""
    logp = nn.functional.log_softmax(logits.float(), dim=1)
    weighted = target * weights[None, :, None, None]
    loss = -(weighted * logp).sum()
    if smoothing > 0:
        loss = (1 - smoothing) * loss - smoothing * (weighted.sum(dim=1) * _even(logp, weights)).sum()
    return loss, weighted.sum()


def focal(
    logits: torch.Tensor, target: torch.Tensor, weights: torch.Tensor, settings: Training, smoothing: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """- sum_c w_c t_c (1 - p_c)^gamma log p_c (Lin et al., ICCV 2017), for shares instead of one class."""
    logp = nn.functional.log_softmax(logits.float(), dim=1)
    weighted = _smooth(target, weights, smoothing) * weights[None, :, None, None]
    easy = (1 - logp.exp()).clamp_min(1e-12) ** settings.gamma  # the gradient of 0 ** gamma is not finite below 1
    return -(weighted * easy * logp).sum(), weighted.sum()


def ohem(
    logits: torch.Tensor, target: torch.Tensor, weights: torch.Tensor, settings: Training, smoothing: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy of the `hardest` share of the known cells (MaskDistill), chosen within a micro-batch.

    Cells that are exactly as hard as the limit count as well.
    """
    logp = nn.functional.log_softmax(logits.float(), dim=1)
    weighted = _smooth(target, weights, smoothing) * weights[None, :, None, None]
    cell, weight = -(weighted * logp).sum(dim=1), weighted.sum(dim=1)  # [n, h, w]
    known = weight > 0
    if logits.device.type != "cpu":
        chosen = hardest_cells(cell.detach() / weight.clamp_min(1e-12), known, settings.hardest)
        return torch.where(chosen, cell, 0).sum(), torch.where(chosen, weight, 0).sum()
    count = int(known.sum())
    if count == 0:
        return cell.sum(), weight.sum()
    hardness = (cell / weight.clamp_min(1e-12)).detach()[known]
    kept = max(1, round(settings.hardest * count))
    limit = torch.kthvalue(hardness, count - kept + 1).values
    chosen = known & (cell.detach() / weight.clamp_min(1e-12) >= limit)
    return cell[chosen].sum(), weight[chosen].sum()


def hardest_cells(hardness: torch.Tensor, known: torch.Tensor, share: float) -> torch.Tensor:
    """Which known cells are among the hardest `share` of them, as in `ohem`, without a number that the host waits for.

    Args:
        hardness: [n, h, w]. known: bool [n, h, w]; without a known cell none is chosen.
    """
    order = hardness.masked_fill(~known, -torch.inf).flatten().sort(descending=True).values
    kept = (known.sum().double() * share).round().long().clamp_min(1)
    return known & (hardness >= order.gather(0, kept[None] - 1))


LOSSES: dict[str, Loss] = {"ce": cross_entropy, "focal": focal, "ohem": ohem}


def _even(logp: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Mean log probability of the classes that there are, [n, h, w]."""
    present = (weights > 0).float()
    return (logp * (present / present.sum())[None, :, None, None]).sum(dim=1)


def _smooth(target: torch.Tensor, weights: torch.Tensor, smoothing: float) -> torch.Tensor:
    """The target with a share of each cell spread evenly over the classes that there are."""
    if smoothing == 0:
        return target
    present = (weights > 0).float()
    even = (present / present.sum())[None, :, None, None]
    return (1 - smoothing) * target + smoothing * target.sum(dim=1, keepdim=True) * even

"""Losses of the instance network: focal classes with DropLoss, dice and cross-entropy of masks."""

from __future__ import annotations

import torch
from torch import nn

from maskmill.rounds._instance_photos import NEITHER


def focal_of(logits: torch.Tensor, target: torch.Tensor, alpha: float, gamma: float) -> torch.Tensor:
    """Focal loss [n, L] of logits [n, L, k + 1] for classes [n, L], 0 is background; 0 where the class is NEITHER."""
    known = target != NEITHER
    chosen = torch.where(known, target, 0)
    logp = nn.functional.log_softmax(logits.float(), dim=2).gather(2, chosen[..., None])[..., 0]
    easy = (1 - logp.exp()).clamp_min(1e-12) ** gamma
    weight = torch.where(chosen > 0, alpha, 1 - alpha)
    return -(known * weight * easy * logp)


def kept_by_drop_loss(overlap: torch.Tensor, target: torch.Tensor, threshold: float | None) -> torch.Tensor:
    """Which locations count in the classification loss, bool [L]: DropLoss (CutLER).

    A location that stands for no object and whose mask overlaps none by more than the threshold is neither object nor
    background: it may have found something that the cut did not.

    Args:
        overlap: [L], largest IoU of each location's mask with an object.
    """
    if not threshold:
        return torch.ones_like(target, dtype=torch.bool)
    return (target > 0) | (overlap > threshold)


def best_overlap(logits: torch.Tensor, objects: torch.Tensor) -> torch.Tensor:
    """Largest IoU [L] of the masks of L locations (logits [L, h, w] above 0) with objects [m, h, w] 0/1; 0 of none."""
    if not len(objects):
        return logits.new_zeros(len(logits))
    masks = (logits > 0).flatten(1).float()
    flat = objects.flatten(1).float()
    both = masks @ flat.T
    union = masks.sum(dim=1)[:, None] + flat.sum(dim=1)[None] - both
    return (both / union.clamp_min(1)).amax(dim=1)


def mask_loss(logits: torch.Tensor, objects: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Dice + mean cross-entropy of each mask, [m], over the known cells.

    Args:
        logits: [m, h, w]. objects: [m, h, w] 0/1. known: [h, w] 0/1.
    """
    p, g, seen = torch.sigmoid(logits.float()) * known, objects * known, known.sum().clamp_min(1)
    dice = 1 - (2 * (p * g).sum((1, 2)) + 1) / ((p * p).sum((1, 2)) + (g * g).sum((1, 2)) + 1)
    cross = nn.functional.binary_cross_entropy_with_logits(logits.float(), objects, reduction="none") * known
    return dice + cross.sum((1, 2)) / seen

"""CAUSE's contrast: tokens of near concepts belong together, tokens of far ones do not, and the rest does not count.

Kim, Lee and Ro, Causal unsupervised semantic segmentation (2023), section 3.3, as in its code.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Limits:
    """temperature: of the softmax. near, far: cosines of two concepts above and below which tokens are pairs."""

    temperature: float
    near: float
    far: float


def info_nce(logits: torch.Tensor, positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor | None:
    """Mean over all positives of - log softmax over positives and negatives; None without a positive.

    Args:
        logits: [a, m]. positive, negative: [a, m] bool.
    """
    count = positive.sum()
    if count == 0:
        return None
    beside = (
        positive | negative | ~positive.any(1, keepdim=True)
    )  # a row without positives counts nothing, but finitely
    level = logits.masked_fill(~beside, -torch.inf).logsumexp(1)
    total = (positive.sum(1) * level).sum() - logits.masked_fill(~positive, 0.0).sum()
    return total / count


def contrast(
    student: torch.Tensor,
    teacher: torch.Tensor,
    concepts: torch.Tensor,
    bank: tuple[torch.Tensor, torch.Tensor],
    alike: torch.Tensor,
    limits: Limits,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean of the contrasts of every image with the batch and with the bank, and the share of positives.

    An image without a positive pair counts nothing.

    Args:
        student, teacher: unit projections [n, t, p]. concepts: [n, t]. bank: unit projections [m, p] and the concept
            of each [m]. alike: cosines of the concepts [k, k].
    """
    n, t = concepts.shape
    flat, owners = teacher.flatten(0, 1), concepts.flatten()
    near, far = alike > limits.near, alike < limits.far
    found, positives = [], student.new_zeros(())
    own = torch.eye(t, dtype=torch.bool, device=student.device)
    for i in range(n):
        for keys, theirs, local in ((flat, owners, True), (*bank, False)):
            if not len(keys):
                continue
            positive = near[concepts[i][:, None], theirs[None]]
            if local:
                positive[:, i * t : (i + 1) * t] &= ~own  # the token itself
                positives = positives + positive.sum() / (n * t * n * t)
            negative = far[concepts[i][:, None], theirs[None]]
            value = info_nce(student[i] @ keys.T / limits.temperature, positive, negative)
            if value is not None:
                found.append(value)
    if not found:
        return student.sum() * 0.0, positives
    return torch.stack(found).mean(), positives

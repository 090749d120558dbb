"""The arithmetic of SlotCon: scores of places, slots, which prototypes a crop shows, and the two losses."""

from __future__ import annotations

import torch

from maskmill.pretrain._heads import unit

EPSILON = 1e-6  # share that every place has of every prototype, so that each has a slot


def scores(maps: torch.Tensor, prototypes: torch.Tensor) -> torch.Tensor:
    """Cosines of places [n, c, h, w] with prototypes [k, c]: [n, k, h, w]."""
    return torch.einsum("kc,nchw->nkhw", unit(prototypes), unit(maps, 1))


def slots(maps: torch.Tensor, scored: torch.Tensor, temperature: float) -> torch.Tensor:
    """Means of places, weighted by their shares of each prototype.

    Args:
        maps: [n, c, h, w]. scored: their scores [n, k, h, w].

    Returns:
        [n, k, c].
    """
    shares = (scored / temperature).softmax(1) + EPSILON
    return torch.einsum("nchw,nkhw->nkc", maps, shares / shares.sum((2, 3), keepdim=True))


def shown(scored: torch.Tensor) -> torch.Tensor:
    """Which prototypes have the highest score at one place or more, bool [n, k] of scores [n, k, h, w]."""
    found = torch.zeros(scored.shape[:2], dtype=torch.bool, device=scored.device)
    return found.scatter_(1, scored.argmax(1).flatten(1), True)


def grouping(
    student: torch.Tensor, teacher: torch.Tensor, centre: torch.Tensor, student_t: float, teacher_t: float
) -> torch.Tensor:
    """Mean cross-entropy of the student's shares with the teacher's, over rows of scores [rows, k].

    Args:
        centre: [k], taken from the teacher's scores. student_t, teacher_t: temperatures.
    """
    wanted = ((teacher - centre) / teacher_t).softmax(1)
    return -(wanted * (student / student_t).log_softmax(1)).sum(1).mean()


def contrast(queries: torch.Tensor, keys: torch.Tensor, labels: torch.Tensor, temperature: float) -> torch.Tensor:
    """Sum of the cross-entropies of queries finding their keys, times twice the temperature.

    Args:
        queries: [q, c], predicted slots. keys: [m, c] of unit length. labels: int64 [q], each one's row of `keys`.
    """
    logits = unit(queries) @ keys.T / temperature
    return torch.nn.functional.cross_entropy(logits, labels, reduction="sum") * (2 * temperature)

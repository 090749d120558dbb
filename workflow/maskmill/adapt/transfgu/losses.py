"""The losses of TransFGU (section 3.3), as its code computes them."""

from __future__ import annotations

import torch


def label(targets: torch.Tensor, teacher: torch.Tensor | None) -> torch.Tensor:
    """Soft labels [n, k, h, w]: the pseudo masks, or their mean with the softmax of a teacher's logits."""
    return targets if teacher is None else 0.5 * teacher.softmax(1) + 0.5 * targets


def cross_entropy(logits: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """Mean of -log softmax of logits [n, k, h, w] at classes [n, h, w].

    The same as torch's own loss, whose order of summation on CUDA changes between runs.
    """
    return -logits.log_softmax(1).gather(1, classes[:, None]).mean()


def categories(
    logits: torch.Tensor, targets: torch.Tensor, teacher: torch.Tensor | None, wrong: tuple[torch.Tensor, float] | None
) -> torch.Tensor:
    """Cross-entropy with the likeliest class of the labels, less a share of that with a wrong class.

    Args:
        wrong: with a teacher: a permutation [k] of the classes, and the share. The wrong class is the place of the
            likeliest one in the permuted labels.
    """
    soft = label(targets, teacher)
    found = cross_entropy(logits, soft.argmax(1))
    if wrong is None:
        return found
    permutation, share = wrong
    return found - share * cross_entropy(logits, soft[:, permutation].argmax(1))


def margins(logits: torch.Tensor, background: bool) -> torch.Tensor:
    """By how much the likeliest class is likelier than the next [n, h, w], without the first class (background)."""
    best = (logits[:, 1:] if background else logits).softmax(1).topk(2, dim=1)[0]
    return best[:, 0] - best[:, 1]


def likeness(embeddings: torch.Tensor) -> torch.Tensor:
    """Mean over all pairs of classes of 1 + cosine; embeddings [n, k, d] of unit length."""
    k = embeddings.shape[1]
    cosine = embeddings @ embeddings.mT
    pairs = torch.ones(k, k, dtype=torch.bool, device=cosine.device).triu(1)
    return 1 + cosine[:, pairs].mean()

"""SwAV's swapped prediction: the assignment of one crop to prototypes is predicted from the other crops of the photo.

Formulas: Caron, Misra, Mairal, Goyal, Bojanowski and Joulin (NeurIPS 2020), section 3, as in its `main_swav.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from maskmill.pretrain._sinkhorn import sinkhorn


@torch.no_grad()
def assign(
    vectors: torch.Tensor, prototypes: torch.Tensor, epsilon: float, iterations: int, queue: torch.Tensor | None = None
) -> torch.Tensor:
    """Soft assignments [n, k] of vectors to prototypes, each of which gets an equal share of vectors and queue.

    Args:
        vectors: [n, c] of unit length. prototypes: [k, c] of unit length.
        queue: [m, c], earlier vectors that take part but whose assignments are thrown away.
    """
    rows = vectors if queue is None else torch.cat([queue, vectors])
    return sinkhorn(rows @ prototypes.T / epsilon, iterations)[-len(vectors) :]


def swapped(scores: torch.Tensor, codes: torch.Tensor, assigned: Sequence[int], temperature: float) -> torch.Tensor:
    """Mean over photos of the cross-entropy between the assignment of a crop and the scores of the other crops.

    Args:
        scores: [crops, n, k], cosines with the prototypes. codes: [len(assigned), n, k], assignments of these crops.
    """
    logs = (scores / temperature).log_softmax(2)
    crops = len(scores)
    total = scores.new_zeros(())
    for code, crop in zip(codes, assigned, strict=True):
        others = [other for other in range(crops) if other != crop]
        total = total - (code[None] * logs[others]).sum(2).mean()
    return total / len(assigned)


@torch.no_grad()
def queued(queue: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    """The queue [q, m, c] after new vectors [q, n, c] came in front and the oldest left."""
    return torch.cat([vectors, queue], 1)[:, : queue.shape[1]]

"""MoCo's contrast: queries against the keys of their photos and a queue of earlier keys.

Formulas: He, Fan, Wu, Xie and Girshick (CVPR 2020), section 3, as in `moco/builder.py` of its code.
"""

from __future__ import annotations

import torch

NOBODY = -1  # owner of a key that comes from no photo


def info_nce(
    queries: torch.Tensor,
    keys: torch.Tensor,
    negatives: torch.Tensor,
    temperature: float,
    own: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy of finding each query's key among the negatives (equation 1).

    Args:
        queries, keys: [n, c] of unit length; the i-th key belongs to the i-th query and has no gradient.
        negatives: [k, c] of unit length, without gradient. own: bool [n, k], negatives that are left out of a query.

    Returns:
        losses [n], and cosines [n, 1 + k]: of the key first; those left out are -inf.
    """
    positive = (queries * keys.detach()).sum(1, keepdim=True)
    others = queries @ negatives.detach().T
    if own is not None:
        others = others.masked_fill(own, -torch.inf)
    cosines = torch.cat([positive, others], 1)
    return -(cosines / temperature).log_softmax(1)[:, 0], cosines.detach()


@torch.no_grad()
def push(
    queue: torch.Tensor, owners: torch.Tensor, pointer: torch.Tensor, keys: torch.Tensor, items: torch.Tensor
) -> None:
    """Write keys into a ring over its oldest ones, in order; all three buffers change in place.

    The number of keys need not divide the length of the ring. Of more keys than the ring holds the last ones stay.

    Args:
        queue: [k, c]. owners: int64 [k], the photo of each key. pointer: int64 [], where the next key goes.
        keys: [n, c]. items: int64 [n], their photos.
    """
    length = len(queue)
    places = (pointer + torch.arange(len(keys), device=queue.device))[-length:] % length
    queue[places] = keys[-length:].to(queue.dtype)
    owners[places] = items[-length:].to(owners.device)
    pointer.add_(len(keys)).remainder_(length)


def tallies(cosines: torch.Tensor) -> dict[str, torch.Tensor]:
    """Share of the queries whose own key is nearest, mean cosine of these keys, mean cosine of the negatives."""
    positive, others = cosines[:, 0], cosines[:, 1:]
    seen = torch.isfinite(others)
    negative = torch.where(seen, others, 0).sum() / seen.sum().clamp_min(1)
    nearest = (positive[:, None] > others).all(1).float().mean()
    return {"found": nearest, "positive": positive.mean(), "negative": negative}

"""Whether a new head has collapsed: how the tokens of some images are spread over its clusters, or over its masks."""

from __future__ import annotations

from typing import Any

import numpy as np

from maskmill.adapt._data import Images
from maskmill.adapt.infer import Head
from maskmill.errors import NumericsError
from maskmill.numerics.sampling import rng

EXAMINED = 32  # images that a new head is examined on
LARGEST = 0.95  # a cluster with a larger share of the tokens, or a mask of an image's tokens, is a collapse


def examined(head: Head, images: Images, seed: int) -> dict[str, Any]:
    """Monitors of a new head: share of every cluster, and of an image's largest mask where its codes are masks.

    Raises:
        NumericsError: the head has collapsed.
    """
    found: dict[str, Any] = {"clusters": cluster_shares(head, images, seed)}
    largest = max(found["clusters"], default=0.0)
    what = f"one of {head.spec['clusters']} clusters takes {100 * largest:.1f} % of the tokens"
    if head.per_image:
        found["mask"] = largest = mask_share(head, images, seed)
        what = f"one mask takes {100 * largest:.1f} % of an image's tokens on average"
        if head.code_length == 1:
            what = "nothing is part of an object, or nearly everything"
    if largest > LARGEST:
        raise NumericsError(
            f"adapt: the head of {head.method} has collapsed: {what}; try another seed, more or fewer adapt.steps, a "
            "lower adapt.learning_rate (unfreeze: and backbone_rate), or more images (docs/adapt.md says what the "
            "method needs)"
        )
    return found


def cluster_shares(head: Head, images: Images, seed: int) -> list[float]:
    """Share of each prototype among the tokens of some images; none for a method without prototypes."""
    if head.prototypes is None:
        return []
    counts = np.zeros(len(head.prototypes), np.int64)
    for i in _drawn(images, seed):
        codes = head.codes(images.view(i))
        flat = codes.reshape(-1, codes.shape[2])
        counts += np.bincount((flat @ head.prototypes.T).argmax(1), minlength=len(counts))
    return [float(share) for share in counts / counts.sum()]


def mask_share(head: Head, images: Images, seed: int) -> float:
    """Share of the tokens in an image's largest mask, mean over some images.

    Of a head with one mask, of objects: the share of this one; 1 if it is empty everywhere.
    """
    found = []
    for i in _drawn(images, seed):
        codes = head.codes(images.view(i))
        if head.code_length == 1:
            found.append(np.count_nonzero(codes) / codes.size)
            continue
        winner = codes.argmax(2)
        found.append(np.bincount(winner.ravel()).max() / winner.size)
    return float(np.mean(found)) if any(found) else 1.0


def _drawn(images: Images, seed: int) -> list[int]:
    """Some images, drawn by the seed."""
    return sorted(rng(seed, "adapt", "look").permutation(len(images))[:EXAMINED].tolist())

"""Objects of two views, their prototypes, and the two losses of MaskContrast, as sums that micro-batches can share.

The published loss is a weighted mean over all pixels of a batch, so a micro-batch gives its sums, and what they are
divided by is known once all of them have been seen.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn import functional

ENET = 1.02  # of the class weights of ENet (Paszke et al., 2016, section 5.2)


class Objects(NamedTuple):
    """Segments that two views of the same photos share.

    Attributes:
        places: number of the object of each pixel of the query, -1 where there is none; int64 [n, side, side].
        masks: pixels of each object in the key, bool [n, most objects of a photo, side, side].
        present: which rows of `masks` are objects, bool [n, most]; in order, they have the numbers 0, 1, ...
        usable: photos with an object, bool [n].
    """

    places: torch.Tensor
    masks: torch.Tensor
    present: torch.Tensor
    usable: torch.Tensor


def objects(query: torch.Tensor, key: torch.Tensor, least: float, most: float) -> Objects:
    """The segments whose share of both views lies strictly between `least` and `most`.

    With one segment a photo that is the published rule for a pair of crops.

    Args:
        query, key: segment ids of the views, 0 = none, int64 [n, side, side].
    """
    shares = [segment_shares(view, int(max(query.max(), key.max())) + 1) for view in (query, key)]  # [n, ids]
    kept = torch.stack([(share > least) & (share < most) for share in shares]).all(0)
    kept[:, 0] = False
    numbers = kept.flatten().cumsum(0).view_as(kept) - 1
    numbers = numbers.masked_fill(~kept, -1)
    rows = torch.arange(len(query), device=query.device)[:, None, None]
    found, count = kept.sum(1), int(kept.sum(1).max())
    rank = (kept.cumsum(1) - 1).masked_fill(~kept, -1)  # place of an object among those of its photo
    masks = rank[rows, key][:, None] == torch.arange(count, device=key.device)[:, None, None]
    present = torch.arange(count, device=key.device) < found[:, None]
    return Objects(numbers[rows, query], masks, present, found > 0)


def segment_shares(segments: torch.Tensor, ids: int) -> torch.Tensor:
    """Share of each id 0..ids-1 among the pixels of [n, side, side]: float64 [n, ids]."""
    rows = torch.arange(len(segments), device=segments.device)[:, None, None] * ids
    counts = torch.bincount((rows + segments).flatten(), minlength=len(segments) * ids).view(-1, ids)
    return counts.double() / segments[0].numel()


def prototypes(keys: torch.Tensor, found: Objects) -> torch.Tensor:
    """The direction of the mean of an object's pixels [objects, d]; keys [n, d, side, side] of unit length."""
    sums = torch.einsum("nmp,ndp->nmd", found.masks.flatten(2).to(keys.dtype), keys.flatten(2))
    return functional.normalize(sums[found.present], dim=1)


def object_weights(pixels: torch.Tensor) -> torch.Tensor:
    """Weight of each object by its share of all pixels of objects: 1 / log(1.02 + share). pixels: counts [objects]."""
    return 1 / torch.log(ENET + pixels / pixels.sum().clamp_min(1))


class Contrast(NamedTuple):
    """Sums over the pixels of a micro-batch.

    Attributes:
        loss: of the weighted cross-entropies. hits: pixels whose own prototype is the nearest.
    """

    loss: torch.Tensor
    hits: torch.Tensor


def pixel_to_prototype(
    pixels: torch.Tensor, places: torch.Tensor, candidates: torch.Tensor, weights: torch.Tensor, temperature: float
) -> Contrast:
    """InfoNCE of pixels against prototypes (section 3.3 of the paper).

    Args:
        pixels: [p, d] of unit length, with gradient. places: row of the own prototype among the candidates [p].
        candidates: prototypes of the batch, then of the queue [c, d]. weights: of the batch's prototypes [objects].
    """
    logits = pixels @ candidates.T / temperature  # [p, c]
    losses = functional.cross_entropy(logits, places, reduction="none") * weights[places]
    return Contrast(losses.sum(), (logits.argmax(1) == places).sum())


def balanced_entropy(logits: torch.Tensor, foreground: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
    """Sum of binary cross-entropies in which both classes weigh alike.

    Args:
        logits, foreground: of pixels, any equal shapes; foreground is 0 or 1.
        negative: share of the background in the whole batch, the weight of a pixel of the foreground.
    """
    positive = (functional.softplus(-logits) * foreground).sum()
    return negative * positive + (1 - negative) * (functional.softplus(logits) * (1 - foreground)).sum()


def pushed(queue: torch.Tensor, pointer: int, rows: torch.Tensor) -> tuple[torch.Tensor, int]:
    """A ring of rows [k, d] with new rows in the place of the oldest, and where the next one goes."""
    rows = rows[-len(queue) :]
    places = (pointer + torch.arange(len(rows), device=queue.device)) % len(queue)
    return queue.index_copy(0, places, rows.to(queue.dtype)), (pointer + len(rows)) % len(queue)

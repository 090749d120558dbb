"""Hidden positives: which tokens of a batch belong together, by pools of reference tokens, and their contrast.

Seong, Moon, Lee, Hong and Heo, Leveraging hidden positives for unsupervised semantic segmentation (CVPR 2023),
sections 3.2 and 3.3, as in its code. Notation: N anchors; the rows of [N, c] are unit vectors.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from maskmill.adapt._modules import unit

BASE = 0.07  # temperature that the published loss is scaled by
LARGE = 8192  # anchors above which the part of some images is computed again for its gradient instead of kept
ROOM = {"cpu": 1 << 22, "cuda": 1 << 28}  # pairs of tokens that are compared at once, at least those of one image
NEAR = tuple((i, j) for i in (-1, 0, 1) for j in (-1, 0, 1))


@dataclass(frozen=True)
class ContrastSettings:
    """Settings of the contrast at one step.

    Attributes:
        anchors: tokens of an image that are contrasted; a batch has a multiple of them. share: lambda, the weight of
            positives that the teacher's codes find.
        temperature: tau.
    """

    anchors: int
    share: float
    temperature: float


def positives(x: torch.Tensor, reach: torch.Tensor, rows: slice) -> torch.Tensor:
    """Positives [rows, N] bool: j is one of i where <x_i, x_j> exceeds the reach of i or of j, and j is not i.

    Args:
        x: [N, c]. reach: max_k <x_i, pool_k> [N], the most alike reference token of each.
    """
    similar = x[rows] @ x.T
    found = (similar > reach[rows, None]) | (similar > reach[None])
    return found & ~_itself(rows, x)


def contrast(
    z: torch.Tensor, rows: slice, weight: torch.Tensor, beside: torch.Tensor, settings: ContrastSettings
) -> torch.Tensor:
    """- tau / BASE * sum_ij w_ij log p_ij / sum_ij w_ij of each image [images], summed over its anchors i and all j.

    p is the softmax of <z_i, z_j> / tau over what is beside i. This is the mean over the anchors, each weighted by its
    positives, of their mean log p; 0 without a positive.

    Args:
        z: [N, c]. rows: the anchors of some images. weight: w [rows, N], 0 where not a positive. beside: [rows, N]
            bool, a row is never empty.
    """
    logits = z[rows] @ z.T / settings.temperature
    logp = logits - torch.logsumexp(logits.masked_fill(~beside, -torch.inf), 1, keepdim=True)
    total, mass = (part.sum(1).view(-1, settings.anchors).sum(1) for part in (weight * logp, weight))
    return -settings.temperature / BASE * total / mass.clamp_min(1e-12)


def loss(
    views: tuple[torch.Tensor, torch.Tensor],
    x: tuple[torch.Tensor, torch.Tensor],
    pools: tuple[torch.Tensor, torch.Tensor],
    others: torch.Tensor,
    settings: ContrastSettings,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The contrast's mean over images and views, and monitors: share of pairs that are positives of either kind.

    Args:
        views: projections [N, c] of the tokens' codes, and of the same codes mixed with those around.
        x: features, and the teacher's codes, of the tokens [N, .]. pools: of both, the reference tokens [P, .].
        others: [anchors, N] bool, what is drawn into the denominator of an image's anchors besides the positives.
    """
    reach = (x[0] @ pools[0].T).amax(1), (x[1] @ pools[1].T).amax(1)
    total, counts = views[0].new_zeros(()), views[0].new_zeros(2)
    room = ROOM.get(x[0].device.type, ROOM["cpu"])
    some = settings.anchors * max(1, room // (settings.anchors * len(x[0])))  # of as many images
    for start in range(0, len(x[0]), some):
        images = partial(_images, views, x, reach, others, slice(start, min(start + some, len(x[0]))), settings)
        if len(x[0]) > LARGE:
            part, found = checkpoint(images, use_reentrant=False, preserve_rng_state=False)
        else:
            part, found = images()
        total, counts = total + part, counts + found
    pairs = len(x[0]) * max(len(x[0]) - 1, 1)
    return total * settings.anchors / len(x[0]), {"general": counts[0] / pairs, "own": counts[1] / pairs}


def _images(
    views: tuple[torch.Tensor, torch.Tensor],
    x: tuple[torch.Tensor, torch.Tensor],
    reach: tuple[torch.Tensor, torch.Tensor],
    others: torch.Tensor,
    rows: slice,
    settings: ContrastSettings,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The sum over some images of their anchors' contrast, the mean of the views; positives of either kind [2]."""
    with torch.no_grad():
        general, own = (positives(a, b, rows) for a, b in zip(x, reach, strict=True))
        itself = _itself(rows, x[0])
        drawn = others.repeat(len(itself) // settings.anchors, 1)
        # As in the published code, an anchor without a positive by features has no loss, and positives by codes alone
        # are not part of the denominator. The denominator of an anchor without a loss is the anchor itself, so that
        # its logarithm is finite.
        alone = ~general.any(1, keepdim=True)
        weight = (general + settings.share * own.to(views[0].dtype)).masked_fill(alone, 0.0)
        beside = torch.where(alone, itself, general | (drawn & ~itself))
    parts = [contrast(z, rows, weight, beside, settings).sum() for z in views]
    return (parts[0] + parts[1]) / 2, torch.stack([general.sum(), own.sum()]).to(parts[0].dtype)


def _itself(rows: slice, x: torch.Tensor) -> torch.Tensor:
    """[rows, N] bool, true where a column is the row's own token."""
    at = torch.arange(len(x), device=x.device)
    return at[rows, None] == at[None]


def mixed(codes: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Codes [n, c, h, w] mixed with those of the 3 x 3 tokens around, by how alike the features x [n, d, h, w] are.

    A neighbour counts by its cosine with the token where that is positive and at least the token's mean cosine with
    the whole image. The sum is divided by the number of tokens around, 4 in a corner, 6 at a border and 9 elsewhere,
    as in the code: a token unlike its surroundings gets a shorter mix. (The paper weighs by the backbone's attention,
    which is not stored.)
    """
    h, w = x.shape[2:]
    u = unit(x)
    mean = (u * u.mean((2, 3), keepdim=True)).sum(1, keepdim=True)  # mean cosine with all tokens [n, 1, h, w]
    around, inside = nn.functional.pad(u, (1, 1, 1, 1)), nn.functional.pad(codes, (1, 1, 1, 1))
    there = nn.functional.pad(codes.new_ones(1, 1, h, w), (1, 1, 1, 1))
    total, count = torch.zeros_like(codes), codes.new_zeros(1, 1, h, w)
    for i, j in NEAR:
        cut = (..., slice(1 + i, 1 + i + h), slice(1 + j, 1 + j + w))
        cosine = (u * around[cut]).sum(1, keepdim=True)  # 0 beyond the border
        keep = (cosine > 0) & ((cosine >= mean) | (i == 0 and j == 0))
        total = total + torch.where(keep, cosine, torch.zeros_like(cosine)) * inside[cut]
        count = count + there[cut]
    return total / count

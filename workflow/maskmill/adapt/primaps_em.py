"""PriMaPs-EM: prototypes of the frozen features that give every principal mask one class.

Hahn, Araslanov, Schaub-Meyer and Roth, Boosting unsupervised semantic segmentation with principal mask proposals (TMLR
2024), section 3.2. Prototypes start at the principal directions of all tokens and take `probe_steps` steps of online
spherical k-means. Then the teacher names each mask of an image (`maskmill.numerics.principal`) by the class of most of
its tokens, and the student learns these names with a focal loss; the teacher follows the student every few steps.

What differs, as only tokens are seen: masks are those of the token grid, without the CRF and the median of pixels; the
student sees the same tokens as the teacher, no flipped or recoloured photo. Both phases share one optimiser. With
`centre`, not in the paper, the mean token is subtracted first, for masks and classes: tokens of a CNN, all positive,
are otherwise so alike that an image is one mask and one class takes all.

Codes are the teacher's class scores and the prototypes the axes: rows of the published classifier have gains of their
own, so that its argmax is not the nearest direction. Scores are those of unit tokens, which leaves the argmax as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from maskmill.adapt import Traits
from maskmill.adapt._data import Images
from maskmill.numerics.principal import Settings

if TYPE_CHECKING:
    import torch

    from maskmill.adapt._training import HeadTraining

TRAITS = Traits(neighbours=False, per_image=False, crops=False, trains_backbone=False)
POINTS = 16384  # tokens that the first directions are read from
CACHE_MIB = 1024  # of masks that are held, a byte a token; beyond it they are made again


class Params(Settings):
    """Settings of the masks, the loss and the training. Steps are the published epochs of Cityscapes."""

    centre: bool = Field(True, description="subtract the mean token of all images first; false: as published")
    focus: float = Field(2.0, ge=0, description="exponent of the focal loss: how much less sure classes count")
    scale: float = Field(0.0, ge=0, description="length of every token in the loss; 0: as stored, as published")
    probe_steps: int = Field(190, ge=0, description="of the steps, the first ones, of k-means")
    steps: int = Field(4800, ge=1, description="optimiser steps")
    batch_size: int = Field(32, ge=1, description="images a step")
    learning_rate: float = Field(5e-3, gt=0, description="Adam, of the prototypes")
    momentum: float = Field(0.98, ge=0, lt=1, description="of the teacher; it starts at 0")
    follow_steps: int = Field(10, ge=1, description="steps between two moves of the teacher")


def code_length(params: Params, clusters: int) -> int:
    """Length of a code: the score of every class."""
    return clusters


def build(depth: int, params: Params, clusters: int) -> torch.nn.Module:
    """The head: `codes` [n, d, h, w] -> [n, k, h, w], `prototypes` (the axes), `student` and `teacher`."""
    from maskmill.adapt._teachers import ScoreHead

    return ScoreHead(clusters, depth)


def fit(images: Images, params: Params, training: HeadTraining) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Train; tensors `head.*`, and diagnostics: loss and monitors (focal: 0 until it is learnt; masks: share
    of the tokens that are in one).

    Raises:
        NumericsError: a loss that is not finite.
    """
    import torch

    from maskmill.adapt import _trainer
    from maskmill.adapt._modules import probe_loss, unit, usage
    from maskmill.adapt._teachers import ema_update
    from maskmill.device import float32

    head = _trainer.seeded(training, lambda: build(images.depth, params, training.clusters))
    initialise(head, images, params, training)
    masks = PrincipalMasks(images, params, head.mean.cpu().numpy())
    most = params.batch_size * params.masks

    def loss(batch: tuple[torch.Tensor, ...], draws: torch.Generator, step: int) -> Any:
        with float32(training.device):  # the largest score names a class
            return _loss(batch, step)

    def _loss(batch: tuple[torch.Tensor, ...], step: int) -> Any:
        x, owner = batch
        scores = unit(x) @ unit(head.student.weight).T
        parts = {"probe": probe_loss(scores), "focal": torch.zeros(()), "masks": (owner > 0).double().mean()}
        learnt = "probe"
        if step >= params.probe_steps:
            x = params.scale * unit(x) if params.scale else x
            scores, learnt = head.student(x), "focal"
            parts["focal"] = focal(scores, mask_classes(head.teacher(x), owner, most), params.focus)
        return parts[learnt], 1, parts | usage(scores.detach())

    def after(step: int) -> None:
        if (momentum := teacher_momentum(step, params)) is not None:
            ema_update(head.teacher, head.student, momentum)

    task = _trainer.HeadTask(
        head, [(list(head.student.parameters()), params.learning_rate)],
        lambda step: [batch(masks, params, training, step)], loss, params.steps, params.batch_size,
        monitors=("probe", "focal", "masks", "entropy", "used", "largest"), after=after,
    )  # fmt: skip
    return _trainer.train(task, training)


class PrincipalMasks(Images):
    """Principal masks of images, flat: uint8 [h * w], 0 = in none; a function of the tokens and of what is subtracted.

    Attributes:
        mean: [d] float32, subtracted from every token.
    """

    def __init__(self, images: Images, params: Params, mean: np.ndarray) -> None:
        super().__init__(images.ids, images.depth, images.hashes, images.made_by, CACHE_MIB)
        self.images, self.params, self.mean = images, params, mean

    def tokens(self, i: int) -> np.ndarray:
        """Tokens of image i less the mean, [h, w, d] float32."""
        return np.asarray(self.images[i].astype(np.float32) - self.mean)

    def read(self, i: int) -> np.ndarray:
        """PrincipalMasks of image i, made anew."""
        from maskmill.numerics.principal import segments_of

        return segments_of(self.tokens(i), self.params).ravel()


def batch(masks: PrincipalMasks, params: Params, training: HeadTraining, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Centred tokens [m, d] float32 of a step's images, one after the other, and the mask of each [m] int64.

    PrincipalMasks of all images are numbered through from 1; 0 is in none.
    """
    from maskmill.adapt._data import order

    items = order(step, params.batch_size, len(masks.images), training.seed)
    owners, last = [], 0
    for i in items:
        own = masks[i].astype(np.int64)
        owners.append(np.where(own > 0, own + last, 0))
        last += int(own.max(initial=0))
    x = np.concatenate([masks.tokens(i).reshape(-1, len(masks.mean)) for i in items])
    return x, np.concatenate(owners)


def mask_classes(scores: torch.Tensor, owner: torch.Tensor, masks: int) -> torch.Tensor:
    """Class of every token [m]: that of most tokens of its mask (of equal ones the first), -1 without a mask.

    Args:
        scores: [m, k]. owner: its mask [m], 0 = none. masks: at least the largest owner; known on the host, which would
            have to wait for the device to find it.
    """
    import torch

    k = scores.shape[1]
    ones = torch.ones(1, dtype=torch.int64, device=owner.device).expand(len(owner))
    votes = torch.zeros((masks + 1) * k, dtype=torch.int64, device=owner.device)
    votes = votes.scatter_add_(0, owner * k + scores.argmax(1), ones).view(masks + 1, k)
    return torch.where(owner > 0, votes.argmax(1)[owner], -1)


def focal(scores: torch.Tensor, labels: torch.Tensor, focus: float) -> torch.Tensor:
    """Cross-entropy with class weights (1 - mean softmax of the class)^focus; the mean over all tokens, -1 count 0.

    Args:
        scores: [m, k]. labels: [m].
    """
    import torch

    weight = (1 - torch.softmax(scores.detach().float(), 1).mean(0)) ** focus
    each = torch.nn.functional.cross_entropy(scores.float(), labels, weight, ignore_index=-1, reduction="none")
    return each.mean()


def teacher_momentum(step: int, params: Params) -> float | None:
    """Momentum of the teacher's update after a step, None where there is none.

    In the first `probe_steps` steps it is 0: the teacher is a copy of the student. After them the first two updates
    copy as well, as the published code does, and update u = 2, 3, ... has momentum u / (u + 1), until that exceeds
    `momentum`.
    """
    if step < params.probe_steps:
        return 0.0
    moves, rest = divmod(step - params.probe_steps + 1, params.follow_steps)
    if rest != 0:
        return None
    return min(params.momentum, (moves - 1) / moves) if moves > 2 else 0.0


def initialise(head: Any, images: Images, params: Params, training: HeadTraining) -> None:
    """Prototypes at the principal directions of some tokens, the largest first; random ones beyond their number.

    Sets what the head subtracts, their mean.
    """
    import torch

    from maskmill.adapt._modules import unit
    from maskmill.adapt._teachers import ema_update
    from maskmill.numerics.sampling import rng

    draws = rng(training.seed, "principal")
    some = draws.permutation(len(images))[:POINTS]
    each = -(-POINTS // len(some))
    parts = []
    for i in some:
        flat = images[int(i)].reshape(-1, images.depth)
        parts.append(flat[np.sort(draws.choice(len(flat), min(each, len(flat)), replace=False))])
    x = torch.from_numpy(np.concatenate(parts).astype(np.float64))
    mean = x.mean(0)
    _, vectors = torch.linalg.eigh((x - mean).T @ (x - mean))  # [d, d], the largest last
    rows = vectors.flip(1).T[: head.student.weight.shape[0]]
    sign = rows.gather(1, rows.abs().argmax(1, keepdim=True)).sign()
    with torch.no_grad():
        if params.centre:
            head.mean.copy_(mean)
        head.student.weight.copy_(unit(head.student.weight))
        head.student.weight[: len(rows)] = (rows * sign).to(head.student.weight)
    ema_update(head.teacher, head.student, 0.0)

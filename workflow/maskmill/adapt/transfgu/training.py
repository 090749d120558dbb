"""The training of TransFGU: classes, pseudo masks, and a student that becomes its own teacher and starts again."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from maskmill.adapt import _trainer
from maskmill.adapt._modules import usage
from maskmill.adapt.transfgu import losses, params, views, windows
from maskmill.adapt.transfgu.activation import PseudoMasks
from maskmill.adapt.transfgu.decoder import Decoder
from maskmill.backbones.cls_block import ClsBlock
from maskmill.device import float32, memory_advice
from maskmill.numerics.sampling import rng
from maskmill.training.checkpoint import Checkpoint, Keeper

if TYPE_CHECKING:
    from maskmill.adapt._photos import FrozenPhotos
    from maskmill.adapt._training import HeadTraining

MONITORS = ("categories", "uncertainty", "diversity", "entropy", "used", "largest")
SHARES = (0.03, 0.1)  # of the cross-entropy with a wrong class: in the first epoch after a teacher, and at most
SHARE_STEP = 0.01  # more of it in every epoch
LARGEST_GRADIENT = 1.0  # entries of a step's gradient are cut at it, as published


class Student(nn.Module):
    """The decoder that learns, its teacher, and the weights that it starts from, so that a checkpoint has them all."""

    def __init__(self, head: Decoder, own: params.Params) -> None:
        super().__init__()
        self.head = head
        self.teacher, self.initial = (copy.deepcopy(head).requires_grad_(False) for _ in range(2))
        self.renewals, self.epoch_steps = params.renewals(own), own.epoch_steps

    def since(self, step: int) -> int | None:
        """Whole epochs since the last teacher; None before the first."""
        epoch = step // self.epoch_steps
        return next((epoch - last for last in reversed(self.renewals) if last <= epoch), None)

    @torch.no_grad()
    def renew(self, step: int) -> Sequence[nn.Parameter]:
        """At the start of some epochs the student becomes the teacher and gets its first weights back.

        The optimiser keeps its averages, as published, so no parameter is returned whose state should be forgotten.
        """
        if step % self.epoch_steps == 0 and step // self.epoch_steps in self.renewals:
            self.teacher.load_state_dict(self.head.state_dict())
            self.head.load_state_dict(self.initial.state_dict())
        return ()


class Objective:
    """The loss of a micro-batch of `views.Batches`.

    Args:
        block: makes tokens of crops of `size` pixels.
    """

    def __init__(
        self, model: Student, block: ClsBlock, size: tuple[int, int], own: params.Params, training: HeadTraining
    ) -> None:
        self.model, self.block, self.size, self.params, self.training = model, block, size, own, training
        self.threshold = None if own.stuff else own.threshold

    def __call__(self, batch: tuple[torch.Tensor, ...], draws: torch.Generator, step: int) -> Any:
        """Mean loss, number of photos, monitors."""
        photos, crops, targets, share = batch
        change = views.light(rng(self.training.seed, "adapt", "light", str(step)))
        with float32(photos.device):
            x = self.block.tokens(views.photos(photos, crops, self.size, change))
        logits, classes = self.model.head(x, draws)
        teacher, since = None, self.model.since(step)
        if since is not None:
            with torch.no_grad():
                teacher = self.model.teacher(x)[0]
        with float32(photos.device):
            parts = self._parts(logits, targets, teacher, self._wrong(step, since, logits))
            parts["uncertainty"] = 1 - (parts.pop("margin") * share[:, None, None]).sum() / len(photos)
            parts["diversity"] = losses.likeness(classes)
        own = self.params
        total = parts["categories"] + own.uncertainty * parts["uncertainty"] + own.diversity * parts["diversity"]
        return total, len(photos), parts | usage(logits.detach())

    def _parts(self, logits: torch.Tensor, targets: torch.Tensor, teacher: Any, wrong: Any) -> dict[str, torch.Tensor]:
        counted = views.foreground(targets, self.threshold)
        margin = losses.margins(logits, self.threshold is not None)
        return {"categories": losses.categories(logits, targets, teacher, wrong), "margin": margin * counted}

    def _wrong(self, step: int, since: int | None, logits: torch.Tensor) -> tuple[torch.Tensor, float] | None:
        """The permutation of the classes in a step, and its share; None without a teacher."""
        if since is None:
            return None
        permutation = rng(self.training.seed, "adapt", "wrong", str(step)).permutation(logits.shape[1])
        share = min(SHARES[0] + SHARE_STEP * since, SHARES[1])
        return torch.from_numpy(permutation).to(logits.device), share


def train(
    images: FrozenPhotos, own: params.Params, training: HeadTraining, head: Decoder
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Classes, pseudo masks, and the training of `head` on them; see `maskmill.adapt.transfgu.fit`."""
    centroids, counts = _classes(images, own, training)
    with memory_advice("adapt.batch_size", 1):
        masks = PseudoMasks(images, centroids, own.mass, images.mask_room)
        masks.fill(training.threads)
    size = _crop_size(images)
    block = ClsBlock(images.backbone, size, images.key)
    model = Student(head, own)
    batches = views.Batches(images, masks, own, block.grid, training)
    learning = [p for p in head.parameters() if p.requires_grad]
    task = _trainer.HeadTask(
        model, [(learning, own.learning_rate)], batches, Objective(model, block, size, own, training), own.steps,
        own.batch_size, monitors=MONITORS, before=model.renew, largest=LARGEST_GRADIENT,
        weight_decay=own.weight_decay, decay_vectors=False,
    )  # fmt: skip
    _, diagnostics = _trainer.train(task, training)
    tensors = {f"head.{name}": value.detach().cpu().numpy() for name, value in head.state_dict().items()}
    return tensors, diagnostics | {"windows": counts}


def _crop_size(images: FrozenPhotos) -> tuple[int, int]:
    """Pixels of a crop: half of the photo's sides, in whole patches."""
    stride = images.backbone.stride
    height, width = (max(1, round(side / 2 / stride)) * stride for side in images.size)
    return height, width


def _classes(images: FrozenPhotos, own: params.Params, training: HeadTraining) -> tuple[np.ndarray, dict[str, int]]:
    """The classes' centroids; kept beside the checkpoint, as the windows of many photos take long."""
    number, path = params.things(own, training.clusters), training.keeper.path
    keeper = Keeper() if path is None else replace(training.keeper, path=path.with_stem(f"{path.stem}-classes"))
    found = keeper.load()
    if found is None:
        with memory_advice("adapt.window_images", 1):
            centroids, counts = windows.classes(images, own, number, training)
        found = Checkpoint(0, {"centroids": centroids}, {"windows": counts})
        keeper.save(found)
    return found.tensors["centroids"], dict(found.facts["windows"])

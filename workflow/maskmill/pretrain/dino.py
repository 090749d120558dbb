"""DINO: a student predicts, from other and smaller crops, what its moving average says of two large ones.

Caron et al., "Emerging Properties in Self-Supervised Vision Transformers" (ICCV 2021), and its code (main_dino.py).
`centering: sinkhorn` is that of DINOv2 in place of the moving centre. With `patch_weight` above 0 the patch loss of
iBOT (Zhou et al., ICLR 2022) is added: the student also predicts what the teacher says of patches that are hidden from
it, with a head of its own, as in DINOv2. The result is the teacher.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn

from maskmill.backbones.learning import Learning
from maskmill.pretrain import Traits
from maskmill.pretrain._ema import ema
from maskmill.pretrain._heads import ProjectionHead
from maskmill.pretrain._learner import Group, Learner, Outputs, split
from maskmill.pretrain._light import Light
from maskmill.pretrain._schedules import cosine
from maskmill.pretrain._settings import Shares, TrainingParams
from maskmill.pretrain._sinkhorn import sinkhorn
from maskmill.pretrain._views import CropSpec, Views

TRAITS = Traits(dense=False)
GLOBALS = 2


class Params(TrainingParams):
    """Settings of DINO; the values are those of ViT-S/16 for 100 epochs of ImageNet, for a batch of 256."""

    crop: int = Field(224, ge=16, le=1024, description="side of the two large crops, pixels")
    scale: Shares = Field((0.4, 1.0), description="their share of the photo's area, from and to")
    local_crop: int = Field(96, ge=16, le=1024, description="side of the small crops, pixels")
    local_scale: Shares = Field((0.05, 0.4), description="their share of the photo's area")
    local_crops: int = Field(8, ge=0, le=32, description="number of small crops; the student alone sees them")
    prototypes: int = Field(65536, ge=2, description="length of the heads' outputs")
    hidden: int = Field(2048, ge=1, description="width of the heads")
    bottleneck: int = Field(256, ge=1, description="width of the heads before the last layer")
    head_norms: bool = Field(False, description="batch norms in the heads, as the published code offers for CNNs")
    student_temperature: float = Field(0.1, gt=0, description="of the student's softmax")
    teacher_temperature: float = Field(0.04, gt=0, description="of the teacher's softmax, after its warm-up")
    warmup_temperature: float = Field(0.04, gt=0, description="at the first step")
    temperature_warmup: float = Field(0.0, ge=0, le=1, description="share of the steps in which it changes linearly")
    centering: Literal["mean", "sinkhorn"] = Field("mean", description="mean: a moving centre; sinkhorn: as in DINOv2")
    center_momentum: float = Field(0.9, ge=0, lt=1, description="of the moving centre")
    teacher_momentum: float = Field(0.996, ge=0, le=1, description="at the first step; 1 at the last, on a cosine")
    freeze_last: float = Field(
        0.01, ge=0, lt=1, description="share of the steps in which the last layer stays as it is"
    )
    patch_weight: float = Field(0.0, ge=0, description="weight of iBOT's loss of hidden patches; 0: DINO alone; a ViT")
    hide: Shares = Field((0.1, 0.5), description="share of the patches hidden in a large crop")
    hide_chance: float = Field(0.5, ge=0, le=1, description="chance that patches of a large crop are hidden")
    drop_path: float = Field(0.1, ge=0, lt=1, description="stochastic depth of the student")
    weight_decay: float = Field(0.04, ge=0, description="at the first step; not of biases, norms and positions")
    final_weight_decay: float | None = Field(0.4, ge=0, description="at the last step, on a cosine; null: the same")


def views(params: Params) -> tuple[CropSpec, ...]:
    """Two large crops, of which one is nearly always blurred and the other sometimes solarised, and small ones."""
    large = [
        CropSpec(side=params.crop, scale=params.scale, light=Light(blur=blur, solarise=solarise))
        for blur, solarise in ((1.0, 0.0), (0.1, 0.2))
    ]
    small = CropSpec(side=params.local_crop, scale=params.local_scale, light=Light(blur=0.5))
    return (*large, *[small] * params.local_crops)


def build(network: Learning, params: Params, photos: int) -> Dino:
    """The student and its heads; the teacher begins as the same."""
    return Dino(network, params)


class Dino(Learner):
    """Student, teacher, their heads, and the moving centres of the teacher's outputs."""

    def __init__(self, network: Learning, params: Params) -> None:
        super().__init__()
        self.params, self.student = params, network
        self.patches = params.patch_weight > 0
        if self.patches:
            network.add_mask_token()
        self.head = self._head(network.depth)
        self.patch_head = self._head(network.depth) if self.patches else None
        self.teacher = network.copy()
        self.teacher_head, self.teacher_patch_head = self._head(network.depth), None
        if self.patches:
            self.teacher_patch_head = self._head(network.depth)
        for mine, theirs in self._followers():
            theirs.load_state_dict(mine.state_dict())
            theirs.requires_grad_(False)
        self.center: torch.Tensor
        self.patch_center: torch.Tensor
        self.register_buffer("center", torch.zeros(1, params.prototypes))
        self.register_buffer("patch_center", torch.zeros(1, params.prototypes if self.patches else 0))
        self.monitors = ("entropy", "mean_entropy", *(["patch_loss"] if self.patches else []))

    def _head(self, depth: int) -> ProjectionHead:
        params = self.params
        return ProjectionHead(depth, params.prototypes, params.hidden, params.bottleneck, params.head_norms)

    def _followers(self) -> list[tuple[nn.Module, nn.Module]]:
        """(what learns, its moving average), the backbones first."""
        found: list[tuple[nn.Module, nn.Module]] = [(self.student, self.teacher), (self.head, self.teacher_head)]
        if self.patch_head is not None and self.teacher_patch_head is not None:
            found.append((self.patch_head, self.teacher_patch_head))
        return found

    def exported(self) -> Learning:
        """The teacher."""
        return self.teacher

    def groups(self) -> list[Group]:
        """All of the student and its heads; what has one dimension is not decayed."""
        return split(self, names=())  # published: positions and the cls token are decayed

    def outputs(self, views: Views, draws: torch.Generator, step: int) -> Outputs:
        """Scores of every crop by the student [n, k], of the large ones by the teacher, and of hidden patches."""
        large, found = views.pictures[:GLOBALS], {}
        with torch.no_grad():
            seen = [self.teacher(picture) for picture in large]
            found["teacher"] = torch.stack([self.teacher_head(each.cls) for each in seen], 1)  # [n, 2, k]
        hidden = [self._hidden(picture, draws) if self.patches else None for picture in large]
        said = [self.student(picture, masked=mask) for picture, mask in zip(large, hidden, strict=True)]
        frozen = self._frozen(step)
        scores = [self.head(each.cls, frozen) for each in said]
        scores += [self.head(self.student(picture).cls, frozen) for picture in views.pictures[GLOBALS:]]
        found["student"] = torch.stack(scores, 1)  # [n, crops, k]
        if self.patch_head is not None and self.teacher_patch_head is not None:
            masks = torch.stack([mask for mask in hidden if mask is not None], 1)  # [n, 2, h, w]
            rows = torch.stack([each.tokens.permute(0, 2, 3, 1) for each in said], 1)[masks]
            theirs = torch.stack([each.tokens.permute(0, 2, 3, 1) for each in seen], 1)[masks]
            shares = masks.flatten(2).float().mean(2)  # of a crop that is hidden
            weights = (1 / masks.flatten(2).sum(2).clamp_min(1))[:, :, None, None].expand_as(masks)[masks]
            found |= {"patches": self.patch_head(rows, frozen), "patch_weights": weights, "hidden": shares}
            with torch.no_grad():
                found["teacher_patches"] = self.teacher_patch_head(theirs)
        return found

    def _frozen(self, step: int) -> bool:
        """Whether the last layers stay as they are."""
        return step < self.params.freeze_last * self.params.steps

    def idle(self, step: int) -> list[nn.Parameter]:
        """The last layers, in the first steps: as published, no optimiser's step is counted for them."""
        heads = (self.head, self.patch_head)
        return [head.last.weight for head in heads if head is not None] if self._frozen(step) else []

    def _hidden(self, picture: torch.Tensor, draws: torch.Generator) -> torch.Tensor:
        """Patches to hide, bool [n, h, w]: of some pictures a random share, at random places."""
        n, (h, w) = len(picture), (side // self.student.stride for side in picture.shape[2:])
        low, high = self.params.hide
        chosen = torch.rand(n, 1, generator=draws, device=picture.device) < self.params.hide_chance
        share = low + (high - low) * torch.rand(n, 1, generator=draws, device=picture.device)
        order = torch.rand(n, h * w, generator=draws, device=picture.device).argsort(1).argsort(1)
        return ((order < share * h * w) & chosen).view(n, h, w)

    def shared(self, outputs: Outputs) -> Outputs:
        """The teacher's scores."""
        return {name: outputs[name] for name in ("teacher", "teacher_patches") if name in outputs}

    def targets(self, whole: Mapping[str, list[torch.Tensor]], step: int) -> Any:
        """Of every micro-batch, what the teacher says: probabilities [n, 2, k], and of hidden patches [m, k]."""
        temperature = self.temperature(step)
        found = {"teacher": self._sharpened(whole["teacher"], self.center, temperature)}
        found["means"] = [torch.cat([each.flatten(0, 1) for each in whole["teacher"]]).float().mean(0, keepdim=True)]
        if self.patches:
            rows = whole["teacher_patches"]
            found["patches"] = self._sharpened(rows, self.patch_center, temperature)
            together = torch.cat(rows).float()
            found["means"].append(together.mean(0, keepdim=True) if len(together) else self.patch_center)
        return found

    def _sharpened(self, scores: list[torch.Tensor], center: torch.Tensor, temperature: float) -> list[torch.Tensor]:
        """Probabilities of scores [..., k] of micro-batches."""
        if self.params.centering == "mean":
            return [((each.float() - center) / temperature).softmax(-1) for each in scores]
        if scores[0].ndim == 2:  # patches
            return list(sinkhorn(torch.cat(scores) / temperature).split([len(each) for each in scores]))
        flat = torch.cat([each.transpose(0, 1) for each in scores], 1)  # [2, n of all, k]
        rows = sinkhorn(flat.flatten(0, 1) / temperature).view_as(flat)
        return [each.transpose(0, 1) for each in rows.split([len(each) for each in scores], 1)]

    def temperature(self, step: int) -> float:
        """The teacher's, which changes linearly in the first steps."""
        p, warmup = self.params, round(self.params.temperature_warmup * self.params.steps)
        if step >= warmup:
            return p.teacher_temperature
        return p.warmup_temperature + (p.teacher_temperature - p.warmup_temperature) * step / warmup

    def loss(
        self, outputs: Outputs, targets: Any, place: int, step: int
    ) -> tuple[torch.Tensor, float, Mapping[str, torch.Tensor]]:
        """Cross-entropy of every crop of the student with both large ones of the teacher, but with itself."""
        teacher = targets["teacher"][place]
        loss = cross_view_loss(outputs["student"], teacher, self.params.student_temperature)
        told = {"entropy": entropy(teacher).mean(), "mean_entropy": entropy(teacher.flatten(0, 1).mean(0))}
        if self.patches:
            told["patch_loss"] = patch_loss(
                outputs["patches"], targets["patches"][place], outputs["patch_weights"], self.params.student_temperature
            ) / max(1, len(teacher) * GLOBALS)
            loss = loss + self.params.patch_weight * told["patch_loss"]
        return loss, float(len(teacher)), told

    def after(self, targets: Any, step: int) -> None:
        """The teachers and centres follow."""
        p = self.params
        momentum = cosine(step, p.steps, p.teacher_momentum, 1.0)
        for mine, theirs in self._followers():
            ema(theirs, mine, momentum)
        for center, mean in zip((self.center, self.patch_center), targets["means"], strict=False):
            center.lerp_(mean, 1 - p.center_momentum)


def cross_view_loss(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """Mean cross-entropy over pairs of crops (DINO, equation 3).

    Args:
        student: scores [n, crops, k], the large crops first. teacher: probabilities [n, 2, k].
        temperature: the student's.
    """
    logs = (student.float() / temperature).log_softmax(-1)
    pairs = -torch.einsum("ntk,nck->tc", teacher, logs) / len(student)  # [2, crops]
    own = torch.eye(*pairs.shape, dtype=torch.bool, device=pairs.device)
    return pairs[~own].mean()


def entropy(shares: torch.Tensor) -> torch.Tensor:
    """Entropy of the rows of probabilities [..., k], in nats."""
    return -(shares * shares.clamp_min(1e-12).log()).sum(-1)


def patch_loss(student: torch.Tensor, teacher: torch.Tensor, weights: torch.Tensor, temperature: float) -> torch.Tensor:
    """Sum of the cross-entropies of hidden patches [m, k], each weighted by one over the number hidden in its crop."""
    logs = (student.float() / temperature).log_softmax(-1)
    return -((teacher * logs).sum(-1) * weights).sum()

"""SlotCon at work: two crops in both networks, the mirrored overlap, and slots of the whole batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from maskmill.device import float32
from maskmill.pretrain._align import overlap, roi_align, within
from maskmill.pretrain._ema import ema
from maskmill.pretrain._heads import mlp, unit
from maskmill.pretrain._learner import Group, Learner, Outputs, split
from maskmill.pretrain._schedules import cosine
from maskmill.pretrain.slotcon._grouping import contrast, grouping, scores, shown, slots

if TYPE_CHECKING:
    from maskmill.backbones.learning import Learning
    from maskmill.pretrain._views import Views
    from maskmill.pretrain.slotcon._params import Params

LEAST = 2  # slots that a batch norm can be computed from


@dataclass(frozen=True)
class Whole:
    """What a step knows of its whole batch; the first axis or place is the crop's, 0 or 1.

    Attributes:
        keys: the teacher's slots that are shown, unit length [m, c]. starts: of each micro-batch, its first key.
        queries: how many slots of the student are contrasted. photos: of the batch. meeting: those
            whose crops meet. centre: mean score [k].
    """

    keys: tuple[torch.Tensor, torch.Tensor]
    starts: tuple[Sequence[int], Sequence[int]]
    queries: tuple[int, int]
    photos: int
    meeting: int
    centre: torch.Tensor


class Head(nn.Module):
    """Three linear layers with batch norms, of the places of a map or of rows."""

    def __init__(self, depth: int, hidden: int, dimensions: int) -> None:
        super().__init__()
        self.layers = mlp([depth, hidden, hidden, dimensions], norm=True, std=0.02)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[n, d, h, w] -> [n, c, h, w], or [n, d] -> [n, c]."""
        if x.ndim == 2:
            return torch.as_tensor(self.layers(x))
        n, _, h, w = x.shape
        rows = self.layers(x.permute(0, 2, 3, 1).flatten(0, 2))
        return torch.as_tensor(rows.view(n, h, w, -1).permute(0, 3, 1, 2))


class SlotCon(Learner):
    """A student with projector, prototypes and the predictor of slots; their teacher; the centre of its scores."""

    monitors = ("teacher_entropy", "groups", "grouping", "contrast")  # groups: prototypes that a crop shows

    def __init__(self, student: Learning, params: Params) -> None:
        super().__init__()
        self.params, self.student, self.teacher = params, student, student.copy()
        self.head = Head(student.depth, params.hidden, params.dimensions)
        self.prototypes = nn.Parameter(torch.randn(params.prototypes, params.dimensions))
        self.predictor = Head(params.dimensions, params.hidden, params.dimensions)
        self.teacher_head = Head(student.depth, params.hidden, params.dimensions).requires_grad_(False)
        self.teacher_head.load_state_dict(self.head.state_dict())
        self.teacher_prototypes = nn.Parameter(self.prototypes.detach().clone(), requires_grad=False)
        self.centre: torch.Tensor
        self.register_buffer("centre", torch.zeros(params.prototypes))

    def exported(self) -> Learning:
        """The teacher, as in the published transfers."""
        return self.teacher

    def groups(self) -> list[Group]:
        """Projector, prototypes and predictor, and the network at its share of their rate."""
        heads = nn.ModuleList([self.head, self.predictor])
        return [*split(self.student, self.params.network_rate), *split(heads), Group([self.prototypes])]

    def outputs(self, views: Views, draws: torch.Generator, step: int) -> Outputs:
        """Slots, shown prototypes, and scores on the grid of the overlap, of both crops and networks."""
        found = self._passed(self.student, self.head, self.prototypes, views, "student")
        with torch.no_grad():
            found |= self._passed(self.teacher, self.teacher_head, self.teacher_prototypes, views, "teacher")
        common = overlap(views.boxes[:, 0], views.boxes[:, 1])
        return found | {"meets": (common[:, 1] > common[:, 0]) & (common[:, 3] > common[:, 2])}

    def _passed(self, network: Learning, head: Head, prototypes: torch.Tensor, views: Views, name: str) -> Outputs:
        found: dict[str, list[torch.Tensor]] = {"slots": [], "shown": [], "aligned": [], "mean": []}
        for crop in (0, 1):  # one after the other: a batch norm sees one crop of each photo
            maps = head(network(views.pictures[crop]).tokens).float()
            with float32(maps.device):
                scored = scores(maps, prototypes)
                found["slots"].append(slots(maps, scored, self.params.teacher_temperature))
                found["shown"].append(shown(scored.detach()))
                found["aligned"].append(_aligned(scored, views, crop))
                found["mean"].append(scored.detach().mean((0, 2, 3)))
        return {f"{name}_{key}": torch.stack(values) for key, values in found.items()}

    def shared(self, outputs: Outputs) -> Outputs:
        """The teacher's slots that are shown and its mean scores; how many slots are contrasted; how many photos."""
        active = torch.stack([self._active(outputs, crop).sum() for crop in (0, 1)])
        keys = [unit(outputs["teacher_slots"][crop][outputs["teacher_shown"][crop]]) for crop in (0, 1)]
        photos = torch.tensor([outputs["meets"].shape[0], int(outputs["meets"].sum())])
        return {"keys0": keys[0], "keys1": keys[1], "active": active, "mean": outputs["teacher_mean"], "photos": photos}

    def targets(self, whole: Mapping[str, list[torch.Tensor]], step: int) -> Whole:
        """The slots of all photos, and the mean of the teacher's scores."""
        names, photos = ("keys0", "keys1"), [int(each[0]) for each in whole["photos"]]
        meeting = sum(int(each[1]) for each in whole["photos"])
        first, second = ([sum(map(len, whole[name][:i])) for i in range(len(photos))] for name in names)
        active = torch.stack(list(whole["active"])).sum(0).tolist()
        weights = torch.tensor(photos, dtype=torch.float32, device=self.centre.device) / sum(photos)
        centre = (torch.stack([each.mean(0) for each in whole["mean"]]) * weights[:, None]).sum(0)
        keys = (torch.cat(whole["keys0"]), torch.cat(whole["keys1"]))
        return Whole(keys, (first, second), (active[0], active[1]), sum(photos), meeting, centre)

    def loss(
        self, outputs: Outputs, targets: Whole, place: int, step: int
    ) -> tuple[torch.Tensor, float, Mapping[str, torch.Tensor]]:
        """Grouping and contrast in both directions, as they enter the means over the whole batch."""
        p, n = self.params, outputs["meets"].shape[0]
        with float32(outputs["meets"].device):
            groups, entropy = self._grouping(outputs)
            pulls = [self._contrast(outputs, targets, crop, place) for crop in (0, 1)]
        share = targets.photos / n  # of a sum over slots that a micro-batch adds to a mean over the batch
        pull = torch.stack([each * share / max(1, total) for each, total in zip(pulls, targets.queries, strict=True)])
        # A mean over the photos of this micro-batch whose crops meet, as a part of that over those of the batch.
        groups = groups * (int(outputs["meets"].sum()) / max(1, targets.meeting) * share)
        loss = p.grouping_weight * groups + (1 - p.grouping_weight) * pull.sum()
        seen = outputs["teacher_shown"].sum(2).float().mean()
        values = (entropy, seen, groups.detach(), pull.sum().detach())
        return loss, float(n), dict(zip(self.monitors, values, strict=True))

    def _grouping(self, outputs: Outputs) -> tuple[torch.Tensor, torch.Tensor]:
        """The sum of both directions' grouping losses, and the entropy of the teacher's shares."""
        p, meets = self.params, outputs["meets"]
        if not bool(meets.any()):
            zero = outputs["student_aligned"].sum() * 0
            return zero, zero.detach()
        student, teacher = (
            [each[meets].permute(0, 2, 3, 1).flatten(0, 2) for each in outputs[f"{name}_aligned"]]
            for name in ("student", "teacher")
        )
        temperatures = p.student_temperature, p.teacher_temperature
        found = [grouping(student[i], teacher[1 - i], self.centre, *temperatures) for i in (0, 1)]
        shares = ((torch.cat(teacher) - self.centre) / p.teacher_temperature).log_softmax(1)
        return found[0] + found[1], -(shares.exp() * shares).sum(1).mean()

    def _contrast(self, outputs: Outputs, targets: Whole, crop: int, place: int) -> torch.Tensor:
        """The sum of the contrasts of the student's slots of a crop with the teacher's of the other crop."""
        other, active = 1 - crop, self._active(outputs, crop)
        if int(active.sum()) < LEAST:
            return outputs["student_slots"].sum() * 0
        rows = outputs["teacher_shown"][other].flatten().cumsum(0).view_as(active) - 1 + targets.starts[other][place]
        queries = self.predictor(outputs["student_slots"][crop][active])
        return contrast(queries, targets.keys[other], rows[active], self.params.contrast_temperature)

    @staticmethod
    def _active(outputs: Outputs, crop: int) -> torch.Tensor:
        """Slots of a crop whose prototype the student sees in it, and the teacher in the other crop: bool [n, k]."""
        return outputs["student_shown"][crop] & outputs["teacher_shown"][1 - crop]

    @torch.no_grad()
    def after(self, targets: Whole, step: int) -> None:
        """The centre follows the mean scores; the teacher moves, as the published one does before the next pass."""
        p = self.params
        self.centre.lerp_(targets.centre, 1 - p.centre_momentum)
        momentum = cosine(step + 1, p.steps, p.teacher_momentum, 1.0)
        ema(self.teacher, self.student, momentum)
        ema(self.teacher_head, self.head, momentum)
        self.teacher_prototypes.lerp_(self.prototypes, 1 - momentum)


def _aligned(scored: torch.Tensor, views: Views, crop: int) -> torch.Tensor:
    """Scores [n, k, h, w] of a crop on the grid of its overlap with the other one, as large, never mirrored."""
    common = overlap(views.boxes[:, 0], views.boxes[:, 1])
    flips = views.flips[:, crop]
    found = roi_align(scored, within(common, views.boxes[:, crop], flips), scored.shape[-1])
    return torch.where(flips[:, None, None, None].to(found.device), found.flip(3), found)

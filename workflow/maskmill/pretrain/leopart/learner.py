"""What Leopart trains: student, teacher, projections and queues, and the loss of a step."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from maskmill.backbones.attention import heaviest
from maskmill.device import float32
from maskmill.pretrain._align import overlap, roi_align, within
from maskmill.pretrain._ema import ema
from maskmill.pretrain._heads import mlp, unit
from maskmill.pretrain._learner import Group, Learner, Outputs, split
from maskmill.pretrain._schedules import cosine
from maskmill.pretrain._sinkhorn import sinkhorn
from maskmill.pretrain.leopart.params import WHOLE, Params

if TYPE_CHECKING:
    from maskmill.backbones.learning import Learning
    from maskmill.pretrain._views import Views

INSIDE = 1 - 1e-4  # an aligned mask that is one everywhere, less rounding


class Projection(nn.Module):
    """What stands on a network: an MLP to embeddings of unit length, and prototypes whose cosines are the scores.

    Attributes:
        prototypes: [k, c], rows of unit length (`normalise`).
    """

    def __init__(self, depth: int, params: Params) -> None:
        super().__init__()
        self.mlp = mlp([depth, params.hidden, params.hidden, params.dimensions], std=0.02)
        self.prototypes = nn.Parameter(torch.empty(params.prototypes, params.dimensions))
        nn.init.trunc_normal_(self.prototypes, std=0.02)
        self.normalise()

    @torch.no_grad()
    def normalise(self) -> None:
        """Scale the prototypes to unit length, as before every published step."""
        self.prototypes.copy_(unit(self.prototypes))

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens [n, d, h, w] -> embeddings [n, h, w, c] of unit length."""
        return unit(self.mlp(tokens.movedim(1, -1)).float())

    def scores(self, embeddings: Tensor) -> Tensor:
        """Embeddings [..., c] -> scores [..., k]."""
        with float32(embeddings.device):
            return embeddings @ self.prototypes.T


@dataclass(frozen=True)
class Targets:
    """What a step learns.

    Attributes:
        assigned: of each global crop and micro-batch, the soft assignments [n * h * w, k] of its tokens.
        cells: [global crops, crops], how many cells of the whole batch count for each pair of crops.
        queued: of each global crop, embeddings [m, c] that enter its queue.
    """

    assigned: list[tuple[Tensor, ...]]
    cells: Tensor
    queued: list[Tensor]


class Leopart(Learner):
    """Student, teacher, their projections, and a queue of embeddings for each global crop.

    Attributes:
        queue: [global crops, length, c], the newest first. held: int64 [global crops], how many are in it.
    """

    monitors = ("foreground", "target_entropy", "used")
    queue: Tensor
    held: Tensor

    def __init__(self, network: Learning, params: Params) -> None:
        super().__init__()
        self.params, self.crops = params, WHOLE + params.local_crops
        self.student, self.teacher = network, network.copy()
        self.projection = Projection(network.depth, params)
        self.teacher_projection = copy.deepcopy(self.projection).requires_grad_(False)
        self.register_buffer("queue", torch.zeros(WHOLE, params.queue, params.dimensions))
        self.register_buffer("held", torch.zeros(WHOLE, dtype=torch.int64))

    def groups(self) -> list[Group]:
        """The backbone at its rate, projection and prototypes at theirs."""
        return [*split(self.student), *split(self.projection, self.params.head_rate / self.params.learning_rate)]

    def outputs(self, views: Views, draws: torch.Generator, step: int) -> Outputs:
        """Scores of the student, embeddings and foreground of the teacher, and the cells that count."""
        found: Outputs = {"boxes": views.boxes}
        for name, first, end in (("whole", 0, WHOLE), ("part", WHOLE, self.crops)):
            if first < end:
                tokens = self.student(torch.cat(views.pictures[first:end])).tokens
                scores = self.projection.scores(self.projection(tokens))  # [crops * n, h, w, k]
                found[name] = scores.movedim(-1, 1).unflatten(0, (end - first, -1))
        return found | self._taught(views, draws)

    @torch.no_grad()
    def _taught(self, views: Views, draws: torch.Generator) -> Outputs:
        """What the teacher says of the global crops.

        taught: embeddings [global crops, n, h, w, c]. inside: bool [global crops, n, h, w], the foreground. counted:
        see `counted_cells`. queued0, ...: of each global crop, some embeddings [m, c] of the foreground.
        """
        attention = self.params.foreground == "attention"
        seen = self.teacher(torch.cat(views.pictures[:WHOLE]), attention=attention)
        taught = self.teacher_projection(seen.tokens)
        inside = torch.ones(taught.shape[:3], dtype=torch.bool, device=taught.device)
        if attention:
            inside = foreground(seen.attention, self.params)
        taught, inside = (each.unflatten(0, (WHOLE, -1)) for each in (taught, inside))
        most = min(self.params.queued * len(views), self.params.queue)
        queued = {f"queued{i}": some(taught[i][inside[i]], most, draws) for i in range(WHOLE)}
        counted = counted_cells(inside, views.boxes, self.params.align)
        return {"taught": taught, "inside": inside, "counted": counted} | queued

    def shared(self, outputs: Outputs) -> Outputs:
        """Of a micro-batch: all embeddings, those to be queued, and how many cells count for each pair of crops."""
        found = {f"queued{i}": outputs[f"queued{i}"] for i in range(WHOLE)}
        found |= {f"taught{i}": outputs["taught"][i].flatten(0, 2) for i in range(WHOLE)}
        return found | {"cells": outputs["counted"].sum((2, 3, 4)).float()}

    @torch.no_grad()
    def targets(self, whole: Mapping[str, list[Tensor]], step: int) -> Targets:
        """Assign the tokens of the whole batch, together with a queue once it is full.

        The queue holds the teacher's embeddings, and the student's prototypes score them, as published.
        """
        assigned = []
        for i in range(WHOLE):
            rows = whole[f"taught{i}"]
            scores = self.teacher_projection.scores(torch.cat(rows))
            if 0 < self.params.queue <= int(self.held[i]):
                scores = torch.cat([self.projection.scores(self.queue[i]), scores])
            together = sinkhorn(scores / self.params.epsilon, self.params.iterations)
            assigned.append(together[-sum(map(len, rows)) :].split([len(each) for each in rows]))
        cells = torch.stack(list(whole["cells"])).sum(0)
        return Targets(assigned, cells, [torch.cat(list(whole[f"queued{i}"])) for i in range(WHOLE)])

    def loss(
        self, outputs: Outputs, targets: Targets, place: int, step: int
    ) -> tuple[Tensor, float, Mapping[str, Tensor]]:
        """The part of a micro-batch in the mean over pairs of crops of the mean over the cells that count.

        How many these are is known of the whole batch only, so a micro-batch has its share of each mean, times the
        number of micro-batches: the mean over micro-batches is the loss of the step.
        """
        with float32(outputs["boxes"].device):
            total = self._crossed(outputs, targets, place)
        pairs = WHOLE * (self.crops - 1)
        return total * len(targets.assigned[0]) / pairs, 1.0, self._monitors(outputs, targets, place)

    def _crossed(self, outputs: Outputs, targets: Targets, place: int) -> Tensor:
        """The sum over pairs of crops of a micro-batch's share in the mean cross-entropy of the cells that count."""
        boxes, params = outputs["boxes"], self.params
        total = outputs["whole"].sum() * 0.0  # a step in which no cell counts still has a gradient
        for i in range(WHOLE):
            taught = outputs["taught"][i]
            assigned = targets.assigned[i][place].view(*taught.shape[:3], -1).movedim(-1, 1)
            for v in range(self.crops):
                if v == i:
                    continue
                scores = outputs["whole"][v] if v < WHOLE else outputs["part"][v - WHOLE]
                both = overlap(boxes[:, i], boxes[:, v])
                wanted = roi_align(assigned, within(both, boxes[:, i]), params.align)
                said = roi_align(scores, within(both, boxes[:, v]), params.align)
                crossed = cross_entropy(wanted, said / params.temperature, outputs["counted"][i, v])
                total = total + crossed / targets.cells[i, v].clamp_min(1)
        return total

    def _monitors(self, outputs: Outputs, targets: Targets, place: int) -> dict[str, Tensor]:
        """Share of the tokens that are foreground, entropy of an assignment, prototypes in use (perplexity)."""
        q = torch.cat([each[place] for each in targets.assigned])
        return {
            "foreground": outputs["inside"].float().mean(),
            "target_entropy": entropy(q).mean(),
            "used": entropy(q.mean(0)).exp(),
        }

    @torch.no_grad()
    def after(self, targets: Targets, step: int) -> None:
        """Prototypes of unit length, the teacher's moving average, and new embeddings in the queues."""
        params = self.params
        self.projection.normalise()
        momentum = cosine(step, params.steps, params.teacher_momentum, params.final_teacher_momentum)
        ema(self.teacher, self.student, momentum)
        ema(self.teacher_projection, self.projection, momentum)
        self.teacher_projection.normalise()
        for i, rows in enumerate(targets.queued):
            self.queue[i] = torch.cat([rows, self.queue[i]])[: params.queue]
            self.held[i] = min(params.queue, int(self.held[i]) + len(rows))


def foreground(attention: Tensor | None, params: Params) -> Tensor:
    """Foreground bool [n, h, w] of the attention [n, heads, h, w]: the mean over heads, blurred, its largest tokens.

    An even attention says nothing, and no token is foreground.
    """
    assert attention is not None
    mean = attention.double().mean(1)
    masks = [heaviest(each, params.mass, params.sigma, params.least) for each in mean.cpu().numpy()]
    empty = np.zeros(mean.shape[1:], bool)
    return torch.from_numpy(np.stack([empty if mask is None else mask for mask in masks])).to(attention.device)


def counted_cells(inside: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Cells that count: bool [global crops, crops, n, size, size], those of an overlap that are foreground throughout.

    Args:
        inside: bool [global crops, n, h, w], tokens of the foreground. boxes: [n, crops, 4].
        size: cells a side. A crop does not predict itself: no cell of such a pair counts.
    """
    n, crops = boxes.shape[:2]
    found = torch.zeros(len(inside), crops, n, size, size, dtype=torch.bool, device=inside.device)
    for i, masks in enumerate(inside):
        for v in range(crops):
            if v != i:
                both = within(overlap(boxes[:, i], boxes[:, v]), boxes[:, i])
                with float32(inside.device):
                    found[i, v] = roi_align(masks[:, None].float(), both, size)[:, 0] >= INSIDE
    return found


def cross_entropy(wanted: Tensor, logits: Tensor, counted: Tensor) -> Tensor:
    """Sum over the cells that count [n, s, s] of - sum_k q_k log softmax(logits)_k; q and logits are [n, k, s, s]."""
    return -((wanted * logits.log_softmax(1)).sum(1) * counted).sum()


def some(rows: Tensor, most: int, draws: torch.Generator) -> Tensor:
    """At most so many of the rows, drawn at random."""
    order = torch.randperm(len(rows), generator=draws, device=draws.device)[:most]
    return rows[order.to(rows.device)]


def entropy(shares: Tensor) -> Tensor:
    """Entropy [...] in nats of shares [..., k]."""
    return torch.special.entr(shares).sum(-1)

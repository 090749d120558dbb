"""NeCo at work: overlaps on one grid, references, orders, and their cross-entropy."""

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
from maskmill.pretrain.neco._params import GLOBAL, Params
from maskmill.pretrain.neco._sorting import Network, network, order

if TYPE_CHECKING:
    from maskmill.backbones.learning import Learning
    from maskmill.pretrain._views import Views

NOTHING = 1e-6  # weight of a micro-batch without a loss


@dataclass(frozen=True)
class References:
    """The references of a step.

    Attributes:
        patches: [pairs, rows, c], in the order in which micro-batches take them, for each pair of crops.
        starts: first row of each micro-batch. queue: [2, q, c], the queue as it is after the step.
    """

    patches: torch.Tensor
    starts: Sequence[int]
    queue: torch.Tensor


class Projector(nn.Module):
    """Three linear layers on tokens, to vectors of unit length."""

    def __init__(self, depth: int, hidden: int, dimensions: int) -> None:
        super().__init__()
        self.layers = mlp([depth, hidden, hidden, dimensions], std=0.02)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens [n, d, h, w] -> [n, c, h, w]."""
        return unit(self.layers(tokens.permute(0, 2, 3, 1)).float()).permute(0, 3, 1, 2)


class NeCo(Learner):
    """A student and its projector, their teacher, and the queue of reference patches of each global crop."""

    # The teacher's entropy, below which the loss can not go; the share of places that both give to one reference.
    monitors = ("teacher_entropy", "same_order")

    def __init__(self, student: Learning, params: Params) -> None:
        super().__init__()
        self.params, self.student = params, student
        self.head = Projector(student.depth, params.hidden, params.dimensions)
        self.teacher = student.copy()
        self.teacher_head = Projector(student.depth, params.hidden, params.dimensions).requires_grad_(False)
        if params.teacher_head == "copied":
            self.teacher_head.load_state_dict(self.head.state_dict())
        self.pairs = [(i, v) for i in range(GLOBAL) for v in range(GLOBAL + params.local_crops) if v != i]
        sorting = network(params.network, params.align**2)
        self.queue: torch.Tensor
        self.filled: torch.Tensor
        self.partners: torch.Tensor
        self.signs: torch.Tensor
        self.register_buffer("partners", sorting.partners, persistent=False)
        self.register_buffer("signs", sorting.signs, persistent=False)
        self.register_buffer("queue", torch.zeros(GLOBAL, params.queue, params.dimensions))
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))

    def groups(self) -> list[Group]:
        """The network, and its projector at a rate of its own."""
        return [*split(self.student), *split(self.head, self.params.head_rate / self.params.learning_rate)]

    def outputs(self, views: Views, draws: torch.Generator, step: int) -> Outputs:
        """Both networks' tokens on the grids of overlaps, [pairs, n, c, align, align], and what enters the queue."""
        crops = views.pictures
        kinds = [torch.cat(crops[:GLOBAL]), *([torch.cat(crops[GLOBAL:])] if len(crops) > GLOBAL else [])]
        maps = [each for kind in kinds for each in self.head(self.student(kind).tokens).split(len(views))]
        with torch.no_grad():
            known = self.teacher_head(self.teacher(kinds[0]).tokens).split(len(views))
            meets = torch.stack([_meet(views, i, v) for i, v in self.pairs])
            taught = torch.stack([_aligned(known[i], views, i, v, self.params.align) for i, v in self.pairs])
        found = torch.stack([_aligned(maps[v], views, v, i, self.params.align) for i, v in self.pairs])
        fresh = [_some(each, len(views) * self.params.queued, draws) for each in known]
        seed = torch.randint(2**62, (1,), generator=draws, device=draws.device)
        return {"student": found, "teacher": taught, "meets": meets, "fresh": torch.stack(fresh), "seed": seed}

    def shared(self, outputs: Outputs) -> Outputs:
        """Patches for the queue; without one, all patches of the overlaps."""
        own = outputs["fresh"] if self.params.queue else rows_of(outputs["teacher"])
        return {"patches": own, "meets": outputs["meets"], "seed": outputs["seed"]}

    def targets(self, whole: Mapping[str, list[torch.Tensor]], step: int) -> References:
        """References of all micro-batches, drawn without replacement while there are enough."""
        cells = self.params.align**2
        counts = [meets.shape[1] * cells for meets in whole["meets"]]
        fresh, queue = torch.cat(whole["patches"], 1), self.queue
        draws = torch.Generator().manual_seed(int(whole["seed"][0]))
        if self.params.queue:
            held = self.queue[:, : int(self.filled)].to(fresh.dtype)
            pool = torch.cat([fresh, held], 1)[:, : self.params.queue]
            queue = torch.cat([pool, self.queue[:, pool.shape[1] :].to(fresh.dtype)], 1)
            pools = [pool[i] for i, _ in self.pairs]
        else:
            pools = list(fresh)
        drawn = torch.stack([pool[_drawn(len(pool), sum(counts), draws).to(pool.device)] for pool in pools])
        starts = [sum(counts[:place]) for place in range(len(counts))]
        return References(drawn, starts, queue)

    def loss(
        self, outputs: Outputs, targets: References, place: int, step: int
    ) -> tuple[torch.Tensor, float, Mapping[str, torch.Tensor]]:
        """Mean cross-entropy of the orders over all pairs of crops."""
        pairs, n, c = outputs["student"].shape[:3]
        start, cells = targets.starts[place], self.params.align**2
        references = targets.patches[:, start : start + n * cells].view(pairs, n, cells, c)
        found = []
        for pair in range(pairs):
            shown = outputs["meets"][pair]
            if bool(shown.any()):
                mine, known = (rows_of(outputs[name][pair, shown][None])[0] for name in ("student", "teacher"))
                found.append(self._ordered(mine, known, references[pair, shown]))
        if not found:  # no crops of these photos overlap: nothing to learn from
            zero = outputs["student"].sum() * 0
            return zero, NOTHING, dict.fromkeys(self.monitors, zero.detach())
        loss, entropy, same = (torch.stack(each).mean() for each in zip(*found, strict=True))
        return loss, float(n), dict(zip(self.monitors, (entropy, same), strict=True))

    def _ordered(self, mine: torch.Tensor, known: torch.Tensor, references: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Cross-entropy of the orders by the student's and the teacher's cells [n * m, c], and the monitors."""
        p, sorting = self.params, Network(self.partners, self.signs)
        with float32(mine.device):
            student = order(closeness(mine, references, p.distance), sorting, p.steepness, p.relaxation)
            with torch.no_grad():
                near = closeness(known, references, p.distance)
                teacher = order(near, sorting, p.teacher_steepness, p.relaxation)
                same = (student.argmax(2) == teacher.argmax(2)).float().mean()
            return cross_entropy(student, teacher), cross_entropy(teacher, teacher), same

    @torch.no_grad()
    def after(self, targets: References, step: int) -> None:
        """The queue takes the step's patches; the teacher moves."""
        p = self.params
        if p.queue:
            self.filled.fill_(min(p.queue, int(self.filled) + p.batch_size * p.queued))
            self.queue.copy_(targets.queue)
        momentum = cosine(step, p.steps, p.teacher_momentum, p.final_teacher_momentum)
        ema(self.teacher, self.student, momentum)
        ema(self.teacher_head, self.head, momentum)


def closeness(patches: torch.Tensor, references: torch.Tensor, distance: str = "cosine") -> torch.Tensor:
    """What is sorted: cosines or Euclidean distances of patches [n * m, c] and the references [n, m, c] of their photo.

    Returns:
        [n * m, m].
    """
    n, m, c = references.shape
    rows = patches.view(n, m, c)
    if distance == "cosine":
        return (unit(rows) @ unit(references).transpose(1, 2)).reshape(n * m, m)
    return torch.cdist(rows, references).reshape(n * m, m)


def cross_entropy(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of shares of places [n, rows, n], as `order` has them: mean over rows and numbers.

    A share that has vanished in single precision counts as the smallest that there is (published: NaN).
    """
    return -(teacher * student.clamp_min(torch.finfo(student.dtype).tiny).log()).sum(0).mean()


def rows_of(maps: torch.Tensor) -> torch.Tensor:
    """[p, n, c, h, w] -> [p, n * h * w, c]."""
    return maps.permute(0, 1, 3, 4, 2).flatten(1, 3)


def _meet(views: Views, i: int, v: int) -> torch.Tensor:
    """Whether crops i and v of each photo overlap, bool [n]."""
    common = overlap(views.boxes[:, i], views.boxes[:, v])
    return (common[:, 1] > common[:, 0]) & (common[:, 3] > common[:, 2])


def _aligned(maps: torch.Tensor, views: Views, crop: int, other: int, cells: int) -> torch.Tensor:
    """Maps [n, c, h, w] of a crop where it overlaps another one, [n, c, cells, cells]; cells of nothing without."""
    common = overlap(views.boxes[:, crop], views.boxes[:, other])
    return roi_align(maps, within(common, views.boxes[:, crop], views.flips[:, crop]), cells)


def _some(maps: torch.Tensor, count: int, draws: torch.Generator) -> torch.Tensor:
    """Random cells [count, c] of maps [n, c, h, w]; the same number for all maps of a size."""
    rows = rows_of(maps[None])[0]
    return rows[_drawn(len(rows), count, draws)]


def _drawn(pool: int, count: int, draws: torch.Generator) -> torch.Tensor:
    """Numbers of rows, each once before any comes again: int64 [count] of 0..pool-1."""
    rounds = [torch.randperm(pool, generator=draws, device=draws.device) for _ in range(-(-count // pool))]
    return torch.cat(rounds)[:count]

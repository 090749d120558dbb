"""SwAV at work: vectors of all crops, prototypes, and the queue that helps small batches to balanced assignments."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from maskmill.backbones.learning import Learning
from maskmill.device import float32
from maskmill.pretrain._embedder import Embedder
from maskmill.pretrain._heads import unit
from maskmill.pretrain._learner import Group, Learner, Outputs
from maskmill.pretrain._multicrop import LARGE
from maskmill.pretrain.swav.assignment import assign, queued, swapped
from maskmill.pretrain.swav.settings import Params

if TYPE_CHECKING:
    from maskmill.pretrain._views import Views


@dataclass(frozen=True)
class Codes:
    """Of a whole batch: assignments [large crops, b, k], vectors [large crops, b, c], first row of each micro-batch."""

    assignments: torch.Tensor
    vectors: torch.Tensor
    starts: tuple[int, ...]


class SwAV(Learner):
    """The network, its head, prototypes [k, c] and the queue [large crops, q, c]; filled: vectors that it has got."""

    monitors = ("entropy", "used", "agreed")
    queue: torch.Tensor
    filled: torch.Tensor

    def __init__(self, network: Learning, params: Params) -> None:
        super().__init__()
        self.params, self.student = params, network
        self.frozen, self.start = (round(s * params.steps) for s in (params.freeze_prototypes, params.queue_start))
        self.head = Embedder(network.depth, params.hidden, params.dimensions)
        self.prototypes = nn.Parameter(
            unit(nn.Linear(params.dimensions, params.prototypes, bias=False).weight.detach())
        )
        self.register_buffer("queue", torch.zeros(LARGE, params.queue, params.dimensions))
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))

    def groups(self) -> list[Group]:
        """Everything is decayed and scaled, as by the published optimiser."""
        return [Group([p for p in self.parameters() if p.requires_grad])]

    def outputs(self, views: Views, draws: torch.Generator, step: int) -> Outputs:
        """Vectors of all crops [crops, n, c]."""
        return {"vectors": self.head(self.student, views.pictures)}

    def shared(self, outputs: Outputs) -> Outputs:
        """Vectors of the large crops [n, large crops, c]."""
        return {"vectors": outputs["vectors"][:LARGE].detach().transpose(0, 1)}

    @torch.no_grad()
    def targets(self, whole: Mapping[str, list[torch.Tensor]], step: int) -> Codes:
        """Assignments of the whole batch, with the queue once it is full."""
        vectors = torch.cat(list(whole["vectors"])).transpose(0, 1)
        full = self.queue.shape[1] > 0 and int(self.filled) >= self.queue.shape[1]
        with float32(vectors.device):
            codes = [
                assign(vectors[i], self.prototypes, self.params.epsilon, self.params.iterations, queue)
                for i, queue in enumerate(self.queue if full else [None] * LARGE)
            ]
        starts = itertools.accumulate((len(rows) for rows in whole["vectors"]), initial=0)
        return Codes(torch.stack(codes), vectors, tuple(starts))

    def loss(
        self, outputs: Outputs, targets: Codes, place: int, step: int
    ) -> tuple[torch.Tensor, float, Mapping[str, torch.Tensor]]:
        """The mean of swapped predictions of this micro-batch; prototypes do not learn in the first steps."""
        vectors = outputs["vectors"]
        codes = targets.assignments[:, targets.starts[place] : targets.starts[place + 1]]
        prototypes = self.prototypes.detach() if step < self.frozen else self.prototypes
        with float32(vectors.device):
            scores = vectors @ prototypes.T
            found = swapped(scores, codes, range(LARGE), self.params.temperature)
        return found, float(vectors.shape[1]), usage(scores.detach(), targets.assignments, codes)

    @torch.no_grad()
    def after(self, targets: Codes, step: int) -> None:
        """Prototypes go back to unit length; large crops enter the queue."""
        self.prototypes.copy_(unit(self.prototypes))
        if self.queue.shape[1] and step >= self.start:
            self.queue.copy_(queued(self.queue, targets.vectors))
            self.filled.add_(targets.vectors.shape[1])


@torch.no_grad()
def usage(scores: torch.Tensor, whole: torch.Tensor, codes: torch.Tensor) -> dict[str, torch.Tensor]:
    """How sure assignments are, how many prototypes a batch uses, and how often a crop's nearest is the other's.

    Args:
        scores: [crops, n, k]. whole: assignments of the batch [2, b, k]. codes: those of this micro-batch [2, n, k].
    """
    entropy = -(codes * codes.clamp_min(1e-12).log()).sum(2).mean()
    used = torch.zeros_like(whole[0, 0]).index_fill_(0, whole.argmax(2).flatten(), 1).mean()
    agreed = (scores[0].argmax(1) == codes[1].argmax(1)).float().mean()
    return {"entropy": entropy, "used": used, "agreed": agreed}

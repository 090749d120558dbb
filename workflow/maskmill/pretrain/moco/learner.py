"""MoCo at work: queries, keys of a slow copy, and the queue."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from maskmill.backbones.learning import Learning
from maskmill.device import float32
from maskmill.errors import ConfigError
from maskmill.pretrain._ema import ema
from maskmill.pretrain._heads import mlp, unit
from maskmill.pretrain._learner import Group, Learner, Outputs
from maskmill.pretrain.moco.contrast import NOBODY, info_nce, push, tallies
from maskmill.pretrain.moco.settings import Params

if TYPE_CHECKING:
    from maskmill.pretrain._views import Views


@dataclass(frozen=True)
class Keys:
    """Of a whole batch, in the order of the batch: keys [b, c], and their photos [b]."""

    vectors: torch.Tensor
    items: torch.Tensor


class MoCo(Learner):
    """The network, its head, both slow copies, and the queue [k, c] with the photo of each key and the next place."""

    monitors = ("found", "positive", "negative")
    queue: torch.Tensor
    owners: torch.Tensor
    pointer: torch.Tensor

    def __init__(self, network: Learning, params: Params) -> None:
        super().__init__()
        norms = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())
        if norms and params.micro >= params.batch_size:
            raise ConfigError(
                f"pretrain.micro_batch: {params.micro_batch} is the whole batch, so that a batch norm would tell "
                "queries which keys are theirs; set at most half of pretrain.batch_size"
            )
        self.params, self.student = params, network
        self.head = mlp([network.depth, params.hidden or network.depth, params.dimensions], nn.ReLU)
        self.teacher = network.copy()
        self.teacher_head = copy.deepcopy(self.head).requires_grad_(False)
        self.register_buffer("queue", unit(torch.randn(params.queue, params.dimensions)))
        self.register_buffer("owners", torch.full((params.queue,), NOBODY))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))

    def groups(self) -> list[Group]:
        """Everything is decayed, as by the published optimiser."""
        return [Group([p for p in self.parameters() if p.requires_grad])]

    def outputs(self, views: Views, draws: torch.Generator, step: int) -> Outputs:
        """Queries [n, c] of the first crops with their places in the batch, keys [n, c] of the second with theirs."""
        queries = unit(self.head(self.student(views.pictures[0]).cls).float())
        with torch.no_grad():
            keys = unit(self.teacher_head(self.teacher(views.pictures[1]).cls).float())
        return {"queries": queries, "keys": keys, "places": views.places, "items": views.items}

    def shared(self, outputs: Outputs) -> Outputs:
        """Keys, and where they and the photos belong."""
        return {name: outputs[name] for name in ("keys", "places", "items")}

    @torch.no_grad()
    def targets(self, whole: Mapping[str, list[torch.Tensor]], step: int) -> Keys:
        """All keys in the order of the batch."""
        keys, places, items = (torch.cat(list(whole[name])) for name in ("keys", "places", "items"))
        return Keys(keys[places[:, 1].argsort()], items[places[:, 0].argsort()])

    def loss(
        self, outputs: Outputs, targets: Keys, place: int, step: int
    ) -> tuple[torch.Tensor, float, Mapping[str, torch.Tensor]]:
        """The mean contrast of this micro-batch's queries."""
        queries, items = outputs["queries"], outputs["items"]
        own = None if self.params.own_keys else items[:, None] == self.owners
        with float32(queries.device):
            keys = targets.vectors[outputs["places"][:, 0]]
            losses, cosines = info_nce(queries, keys, self.queue, self.params.temperature, own)
        return losses.mean(), float(len(queries)), tallies(cosines)

    @torch.no_grad()
    def after(self, targets: Keys, step: int) -> None:
        """Keys enter the queue; the slow copies follow."""
        push(self.queue, self.owners, self.pointer, targets.vectors, targets.items)
        ema(self.teacher, self.student, self.params.teacher_momentum)
        ema(self.teacher_head, self.head, self.params.teacher_momentum)

"""SegSort at work: embeddings of the tokens of a crop, their segments, and the pull of the segments' prototypes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from maskmill.backbones.learning import Learning
from maskmill.device import float32
from maskmill.numerics import vmf
from maskmill.pretrain._decoders import decoder
from maskmill.pretrain._heads import unit
from maskmill.pretrain._learner import Group, Learner, Outputs, in_float32, split
from maskmill.pretrain._segments import at_grid
from maskmill.pretrain.segsort.loss import likelihood, mean_directions, numbered, pulls

if TYPE_CHECKING:
    from maskmill.pretrain._views import Views


class Targets(NamedTuple):
    """What the losses of a step share.

    Attributes:
        prototypes: of all segments of the batch [segments, d]. pull: the gradient that all pixels give them, of that
            shape. starts: number of the first segment of each micro-batch.
    """

    prototypes: torch.Tensor
    pull: torch.Tensor
    starts: list[int]


class SegSort(Learner):
    """The learner. It has no state besides its weights."""

    monitors = ("accuracy", "cosine", "segments")

    def __init__(self, network: Learning, params: Any) -> None:
        super().__init__()
        self.student, self.params = network, params
        self.decoder = decoder(params.decoder, network.depth, params.width)
        self.embed = nn.Conv2d(self.decoder.width, params.dimensions, 1)

    def groups(self) -> list[Group]:
        """The network, and what is new at a higher rate."""
        return [*split(self.student), *(g for m in (self.decoder, self.embed) for g in split(m, self.params.head_rate))]

    def outputs(self, views: Views, draws: torch.Generator, step: int) -> Outputs:
        """Embeddings of tokens, the segment of each, and the prototypes of the segments."""
        embedded = self.embed(self.decoder(self.student(views.pictures[0]).tokens)).float()  # [n, d, h, w]
        with float32(embedded.device):
            return self._segmented(unit(embedded, 1).permute(0, 2, 3, 1), views)

    def _segmented(self, maps: torch.Tensor, views: Views) -> Outputs:
        """The outputs of unit embeddings [n, h, w, d]."""
        with torch.no_grad():
            segments = at_grid((views.segments or ())[0], (maps.shape[1], maps.shape[2]))
            if self.params.parts:
                parts = torch.stack([vmf.segments(each, self.params.parts, self.params.iterations) for each in maps])
                segments = segments * (self.params.parts**2) + parts
            places = numbered(segments)
        pixels = maps.flatten(0, 2)
        return {
            "pixels": pixels,
            "places": places,
            "prototypes": mean_directions(pixels, places, int(places.max()) + 1),
            "photos": torch.tensor([len(maps)], device=maps.device),
        }

    def shared(self, outputs: Outputs) -> Outputs:
        """Pixels with their segments, and prototypes."""
        return {name: outputs[name] for name in ("pixels", "places", "prototypes")}

    def targets(self, whole: Mapping[str, list[torch.Tensor]], step: int) -> Targets:
        """Prototypes of the whole batch, and what its pixels ask of them."""
        starts = torch.tensor([0, *map(len, whole["prototypes"])]).cumsum(0)[:-1].tolist()
        prototypes = torch.cat(whole["prototypes"])
        own = [places + start for places, start in zip(whole["places"], starts, strict=True)]
        return Targets(prototypes, pulls(whole["pixels"], own, prototypes, self.params.concentration), starts)

    @in_float32
    def loss(
        self, outputs: Outputs, targets: Targets, place: int, step: int
    ) -> tuple[torch.Tensor, float, Mapping[str, torch.Tensor]]:
        """Mean over the pixels of this micro-batch; its own prototypes feel the pull of all pixels of the batch."""
        pixels, means, start = outputs["pixels"], outputs["prototypes"], targets.starts[place]
        own = outputs["places"] + start
        total = likelihood(pixels, own, targets.prototypes, self.params.concentration)
        pull = targets.pull[start : start + len(means)]
        total = total + (pull * (means - means.detach())).sum()  # adds a gradient, and nothing to the value
        with torch.no_grad():
            hits = ((pixels @ targets.prototypes.T).argmax(1) == own).float().mean()
            near = (pixels * targets.prototypes[own]).sum(1).mean()
        segments = len(means) / outputs["photos"].float()[0]
        return total / len(pixels), float(len(pixels)), {"accuracy": hits, "cosine": near, "segments": segments}

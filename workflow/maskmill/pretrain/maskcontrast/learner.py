"""MaskContrast at work: embeddings and saliency of the query, prototypes of the key, and a queue of prototypes."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from maskmill.backbones.learning import Learning
from maskmill.device import float32
from maskmill.pretrain._decoders import at_size, decoder
from maskmill.pretrain._ema import ema
from maskmill.pretrain._heads import unit
from maskmill.pretrain._learner import Group, Learner, Outputs, in_float32
from maskmill.pretrain._segments import at_grid
from maskmill.pretrain.maskcontrast.loss import (
    balanced_entropy,
    object_weights,
    objects,
    pixel_to_prototype,
    prototypes,
    pushed,
)

if TYPE_CHECKING:
    from maskmill.pretrain._views import Views


class Head(nn.Module):
    """Embedding and saliency of every token, from one decoder."""

    def __init__(self, depth: int, params: Any) -> None:
        super().__init__()
        self.decoder = decoder(params.decoder, depth, params.width, params.dropout)
        self.embed = nn.Conv2d(self.decoder.width, params.dimensions, 1)
        self.saliency = nn.Conv2d(self.decoder.width, 1, 1, bias=False)
        self.upsample = params.upsample

    def forward(self, tokens: torch.Tensor, side: int, draws: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens [n, depth, h, w] -> embeddings of unit length [n, d, s, s] and logits [n, s, s], float32.

        s is the side of the crop, or, without upsampling, the side of the grid.
        """
        x = self.decoder(tokens, draws)
        embedded, salient = self.embed(x).float(), self.saliency(x).float()
        with float32(embedded.device):
            if self.upsample:
                embedded, salient = at_size(embedded, side, side), at_size(salient, side, side)
            return unit(embedded, 1), salient[:, 0]


class Targets(NamedTuple):
    """What the losses of a step share.

    Attributes:
        prototypes: of all objects of the batch [objects, d]. queue: of earlier steps [k, d]. starts: number of the
            first object of each micro-batch.
        weights: of the objects. divisor: sum of the weights of their pixels. photos: of the batch. pixels: of its
            photos with an object. negative: share of the background among these.
    """

    prototypes: torch.Tensor
    queue: torch.Tensor
    starts: list[int]
    weights: torch.Tensor
    divisor: torch.Tensor
    photos: torch.Tensor
    pixels: torch.Tensor
    negative: torch.Tensor


class MaskContrast(Learner):
    """The learner; `queue` [k, d] starts with random directions, and `pointer` is the place of its oldest row."""

    monitors = ("contrast", "saliency", "accuracy", "objects")
    queue: torch.Tensor
    pointer: torch.Tensor

    def __init__(self, network: Learning, params: Any) -> None:
        super().__init__()
        self.student, self.params = network, params
        self.head = Head(network.depth, params)
        self.teacher, self.teacher_head = network.copy(), copy.deepcopy(self.head).requires_grad_(False)
        self.register_buffer("queue", unit(torch.randn(params.queue, params.dimensions)))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))

    def groups(self) -> list[Group]:
        """One group: the published optimiser decays biases and norms too."""
        return [Group([p for p in self.parameters() if p.requires_grad])]

    def outputs(self, views: Views, draws: torch.Generator, step: int) -> Outputs:
        """Pixels of objects in the query, with gradient, and prototypes of the same objects in the key."""
        (query, key), side = views.pictures, views.pictures[0].shape[-1]
        embedded, salient = self.head(self.student(query).tokens, side, draws)
        with torch.no_grad():
            keys, _ = self.teacher_head(self.teacher(key).tokens, side, draws)
            size = (embedded.shape[2], embedded.shape[3])
            segments = [at_grid(each, size) for each in views.segments or ()]
            found = objects(segments[0], segments[1], self.params.least_share, self.params.most_share)
            with float32(keys.device):
                means = prototypes(keys, found)
            places = found.places[found.places >= 0]
            foreground = (segments[0] > 0)[found.usable].float()
            counts = [len(query), foreground.numel(), float(foreground.sum())]
        return {
            "pixels": embedded.permute(0, 2, 3, 1)[found.places >= 0],  # [p, d]
            "places": places,
            "salient": salient[found.usable],
            "foreground": foreground,
            "prototypes": means,
            "counts": torch.bincount(places, minlength=len(means)),
            "seen": torch.tensor([counts], dtype=torch.float64, device=embedded.device),
        }

    def shared(self, outputs: Outputs) -> Outputs:
        """Prototypes, pixels of each object, and how many photos and pixels there are."""
        return {name: outputs[name] for name in ("prototypes", "counts", "seen")}

    def targets(self, whole: Mapping[str, list[torch.Tensor]], step: int) -> Targets:
        """Prototypes and weights of the whole batch."""
        counts = torch.cat(whole["counts"]).double()
        weights = object_weights(counts)
        photos, pixels, positive = torch.cat(whole["seen"]).sum(0).unbind()
        starts = torch.tensor([0, *map(len, whole["prototypes"])]).cumsum(0)[:-1].tolist()
        pixels = pixels.clamp_min(1)  # of a batch without any object
        return Targets(
            prototypes=torch.cat(whole["prototypes"]),
            queue=self.queue,
            starts=starts,
            weights=weights.float(),
            divisor=(weights * counts).sum().clamp_min(1e-12),
            photos=photos,
            pixels=pixels,
            negative=1 - positive / pixels,
        )

    @in_float32
    def loss(
        self, outputs: Outputs, targets: Targets, place: int, step: int
    ) -> tuple[torch.Tensor, float, Mapping[str, torch.Tensor]]:
        """This micro-batch's part of both losses; the batch's are means over its pixels."""
        candidates = torch.cat([targets.prototypes, targets.queue])
        own = outputs["places"] + targets.starts[place]
        found = pixel_to_prototype(outputs["pixels"], own, candidates, targets.weights, self.params.temperature)
        salient = balanced_entropy(outputs["salient"], outputs["foreground"], targets.negative.float())
        photos = float(outputs["seen"][0, 0])
        share = targets.photos.float() / photos  # of the batch for one of this micro-batch
        contrast, saliency = found.loss / targets.divisor.float() * share, salient / targets.pixels.float() * share
        monitors = {
            "contrast": contrast.detach(),
            "saliency": saliency.detach(),
            "accuracy": found.hits / max(1, len(own)),
            "objects": torch.tensor(len(outputs["prototypes"]) / photos),
        }
        return contrast + saliency, photos, monitors

    def after(self, targets: Targets, step: int) -> None:
        """The teacher follows, and the prototypes of the step take the place of the oldest."""
        ema(self.teacher, self.student, self.params.teacher_momentum)
        ema(self.teacher_head, self.head, self.params.teacher_momentum)
        queue, pointer = pushed(self.queue, int(self.pointer), targets.prototypes)
        self.queue.copy_(queue)
        self.pointer.fill_(pointer)

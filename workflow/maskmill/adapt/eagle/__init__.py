"""EAGLE: tokens are pulled to the medoid of their segment, which eigenvectors of the codes' own graph find.

Kim, Han, Ju and Hwang, EAGLE: eigen aggregation learning for object-centric unsupervised semantic segmentation (CVPR
2024). STEGO's head learns codes. First a loss of correspondences as STEGO's, with shifts that follow the batch. After
`warmup` steps nine tenths of the weight go to a contrast: a graph of an image's codes and colours has eigenvectors,
learnt directions divide them into segments (EiCue), and the projections of the tokens, of the view of the segments and
of the other one, learn to be nearest to their segment's medoid in the batch.

What differs, as only tokens are seen: the published second view is a photo that is blurred by 3 x 3 pixels half of the
time; here it is the same tokens, of which other channels are hidden. Crops are crops of stored tokens. Features are one
level of a backbone, in the paper keys of three layers. Every eigenvector has a sign by its own entries; in the code all
of an image are turned together, and their signs are those that the solver happens to give.

`colour_deviation`: the code divides colours that are normalised already by 255 again, so that all are alike (25.5, the
default); the paper's 0.1 in colours of 0..1 is 0.44 here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from maskmill.adapt import Traits
from maskmill.adapt._data import Crops
from maskmill.recipe.base import Model

if TYPE_CHECKING:
    import torch

    from maskmill.adapt._beside import TokensAndMore
    from maskmill.adapt._training import HeadTraining

TRAITS = Traits(neighbours=False, per_image=False, crops=True, trains_backbone=False, beside=("photo",))
SHUFFLES = 5  # random pairings of a batch
MONITORS = ("views", "random", "segments", "contrast", "probe", "entropy", "used", "largest")


class Params(Model):
    """Settings of the head, the segments, the losses and the training. Defaults: ViT-S on COCO-Stuff."""

    dimensions: int = Field(512, ge=1, le=4096, description="length of a code")
    dropout: float = Field(0.1, ge=0, lt=1, description="share of a map's channels hidden in training")
    crops: Crops = Field("five", description="items of the training: whole images, or five crops of each")
    colour: float = Field(1.0, ge=0, description="weight of the colours in the graph; 0: no photo is read")
    colour_deviation: float = Field(25.5, gt=0, description="difference of colours that counts, in deviations of a "
                                    "channel over ImageNet")  # fmt: skip
    eigenvectors: int = Field(3, ge=1, le=64, description="that segments are found in, after the first")
    segments: int = Field(32, ge=2, le=1024, description="directions that divide them")
    places: int = Field(11, ge=2, le=64, description="sampled places a side of the correspondences")
    weight_views: float = Field(0.25, ge=0, description="weight of the correspondences of two views")
    weight_random: float = Field(0.63, ge=0, description="weight of those of two images")
    shift_factor: float = Field(3.5, ge=0, description="of the shift of two images")
    shift_bias: float = Field(0.0, ge=-1, le=1, description="of both shifts; 0.11 for Cityscapes")
    weight_contrast: float = Field(0.85, ge=0, description="weight of the contrast of each view")
    temperature: float = Field(0.07, gt=0, description="of the contrast")
    other_view: float = Field(0.7, ge=0, le=1, description="weight of the other view's tokens in the contrast")
    smoothing: float = Field(0.0, ge=0, le=0.5, description="of the contrast's labels; 0.1 for Cityscapes")
    warmup: int = Field(200, ge=0, description="steps with correspondences only")
    share: float = Field(0.9, ge=0, le=1, description="of the contrast after them; correspondences have the rest")
    steps: int = Field(10000, ge=1, description="optimiser steps")
    batch_size: int = Field(32, ge=2, description="items a step")
    learning_rate: float = Field(5e-4, gt=0, description="Adam, of the head and the projection")
    probe_rate: float = Field(5e-3, gt=0, description="Adam, of the prototypes")
    segment_rate: float = Field(5e-5, gt=0, description="Adam, of the directions")


def code_length(params: Params, clusters: int) -> int:
    """Length of a code: dimensions."""
    return params.dimensions


def build(depth: int, params: Params, clusters: int) -> torch.nn.Module:
    """The head: `codes` [n, d, h, w] -> [n, c, h, w], `prototypes`; projection and directions of the training."""
    import torch

    from maskmill.adapt._modules import CodeHead, Projector
    from maskmill.adapt.eagle.eigen import Lookup

    c = params.dimensions
    head = CodeHead(Projector(depth, c, params.dropout), clusters, c)
    head.projection = torch.nn.Linear(c, c)
    head.lookups = torch.nn.ModuleList(Lookup(params.segments, params.eigenvectors) for _ in range(2))
    return head


def fit(images: TokensAndMore, params: Params, training: HeadTraining) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Train; tensors `head.*`, and diagnostics: loss and monitors (segments: the lookups' loss).

    Raises:
        NumericsError: a loss that is not finite. InputError: a photo has changed.
    """
    from maskmill.adapt import _trainer

    head = _trainer.seeded(training, lambda: build(images.depth, params, training.clusters))

    def loss(batch: tuple[torch.Tensor, ...], draws: torch.Generator, step: int) -> Any:
        return losses(head, batch, params, draws, params.share if step > params.warmup else 0.0)

    main = [*head.projector.parameters(), *head.projection.parameters()]
    task = _trainer.HeadTask(
        head, [(main, params.learning_rate), ([head.prototypes.weight], params.probe_rate),
               (list(head.lookups.parameters()), params.segment_rate)],
        lambda step: [batch(images, params, training, step)], loss, params.steps, params.batch_size,
        monitors=MONITORS,
    )  # fmt: skip
    return _trainer.train(task, training)


def batch(images: TokensAndMore, params: Params, training: HeadTraining, step: int) -> tuple[np.ndarray, ...]:
    """Tokens [n, d, h, w] of a step's items, and their colours [n, 3, h, w] of 0..255 where they count."""
    from maskmill.adapt._data import order, stack

    items = order(step, params.batch_size, images.items(params.crops), training.seed)
    x = stack([images.item(j, params.crops) for j in items])
    if not params.colour:
        return (x,)
    side = (x.shape[2], x.shape[3])
    return x, stack([images.colours(j, params.crops) for j in items], side)


def losses(
    head: Any, batch: tuple[torch.Tensor, ...], params: Params, draws: torch.Generator, share: float
) -> tuple[torch.Tensor, int, dict[str, Any]]:
    """The loss of a step, the images, and monitors; share: the weight of the contrast."""
    from maskmill.adapt._modules import drop_channels, full, probe_loss, unit, usage
    from maskmill.device import float32

    x, colours = batch[0], batch[1] if len(batch) > 1 else None
    codes = [head.projector(x, draws) for _ in range(3)]  # the photo, the same as a view, and its other view
    seen = [drop_channels(x, params.dropout, draws) for _ in range(3)]
    parts = correspondences(seen, codes, params, draws)
    total = (1 - share) * (params.weight_views * parts["views"] + params.weight_random * parts["random"])
    with float32(x.device):  # segments are the nearest directions
        found, parts["segments"] = segments(head, [full(code.detach()) for code in codes[1:]], colours, params)
        total = total + parts["segments"]
        if share:
            rows = [unit(head.projection(full(code).flatten(2).mT.flatten(0, 1))) for code in codes[1:]]
            parts["contrast"] = contrasts(rows, seen[1:], found, params)
            total = total + share * parts["contrast"]
    cosine = head.prototypes(codes[0].detach())
    parts["probe"] = probe_loss(cosine)
    return total + parts["probe"], len(x), parts | usage(cosine.detach())


def correspondences(seen: Any, codes: Any, params: Params, draws: torch.Generator) -> dict[str, Any]:
    """Losses of the correspondences of two views, and of pairs of images."""
    import torch

    from maskmill.adapt import _correspondence as corr
    from maskmill.adapt.eagle.contrast import correspondence

    n, device = len(seen[0]), seen[0].device
    shape = (n, params.places, params.places, 2)
    here, there, third = (2 * torch.rand(shape, generator=draws, device=device) - 1 for _ in range(3))

    def pair(a: int, at: torch.Tensor, b: int, to: torch.Tensor, other: Any, factor: float | None) -> torch.Tensor:
        f = corr.correlate(corr.sample(seen[a], at), corr.sample(seen[b][other], to))
        s = corr.correlate(corr.sample(codes[a], at), corr.sample(codes[b][other], to))
        return correspondence(corr.centred(f), s, params.shift_bias, factor)

    views = pair(2, third, 1, there, slice(None), None)
    drawn = [pair(0, here, 0, there, corr.others(n, draws), params.shift_factor) for _ in range(SHUFFLES)]
    return {"views": views, "random": torch.stack(drawn).mean()}


def segments(head: Any, codes: list[torch.Tensor], colours: torch.Tensor | None, params: Params) -> tuple[Any, Any]:
    """Segments [n, t] of the codes of both views, and the mean loss of the directions."""
    from maskmill.adapt.eagle.eigen import colour_affinity, eigenvectors, graph

    near = None if colours is None else colour_affinity(colours, params.colour_deviation)
    found, total = [], 0.0
    for code, lookup in zip(codes, head.lookups, strict=True):
        vectors = eigenvectors(graph(code, near, params.colour), params.eigenvectors)
        labels, loss = lookup.segments(vectors, code.shape[2:])
        found.append(labels)
        total = total + loss / 2
    return found, total


def contrasts(rows: Any, seen: Any, found: Any, params: Params) -> torch.Tensor:
    """The contrast of either view with the segments of its own, both times its weight."""
    import torch

    from maskmill.adapt.eagle.contrast import ContrastSettings, contrast, token_weights

    settings = ContrastSettings(params.temperature, params.other_view, params.smoothing)
    parts = [
        contrast(rows[i], rows[1 - i], found[i].flatten(), token_weights(seen[i].float()).flatten(), settings)
        for i in range(2)
    ]
    return params.weight_contrast * torch.stack(parts).sum()

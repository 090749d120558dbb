"""STEGO: a small head distils which features correspond, within an image, to similar images and to random ones.

Hamilton, Zhang, Hariharan, Snavely and Freeman, Unsupervised semantic segmentation by distilling feature
correspondences (ICLR 2022). The head, the sampling of places, the centring, the clamp and the weights are those of its
code; the five crops of an image are crops of its stored tokens, not of its pixels.

The shifts decide what counts as alike, and the published ones hold for one backbone. `shift: auto` reads them off the
features: the given quantiles of the centred correlations of 256 pairs of each kind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from maskmill.adapt import Traits
from maskmill.adapt._stego import StegoParams

if TYPE_CHECKING:
    import numpy as np
    import torch

    from maskmill.adapt._data import TokenImages
    from maskmill.adapt._training import HeadTraining

TRAITS = Traits(neighbours=True, per_image=False, crops=True, trains_backbone=False)


class Params(StegoParams):
    """Settings of the head, the loss and the training. Defaults: ViT-S on COCO-Stuff."""


def code_length(params: Params, clusters: int) -> int:
    """Length of a code: dimensions."""
    return params.dimensions


def build(depth: int, params: Params, clusters: int) -> torch.nn.Module:
    """The head: `codes` [n, d, h, w] -> [n, c, h, w], and `prototypes`."""
    from maskmill.adapt._modules import CodeHead, Projector

    return CodeHead(Projector(depth, params.dimensions, params.dropout), clusters, params.dimensions)


def fit(images: TokenImages, params: Params, training: HeadTraining) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Train; tensors `head.*`, and diagnostics: loss, monitors, shifts, histograms of F and of S before and after.

    Raises:
        NumericsError: a loss that is not finite, or fewer items than neighbours or than a batch.
    """
    from maskmill.adapt import _correspondence as corr
    from maskmill.adapt import _stego, _trainer
    from maskmill.adapt._modules import drop_channels, probe_loss, usage

    head = _trainer.seeded(training, lambda: build(images.depth, params, training.clusters))
    projector, prototypes = head.projector, head.prototypes
    before = _stego.measured(images, params, training, lambda x: x)
    shifts = _stego.shifts_of(before, params)
    weights = {"self": params.weight_self, "knn": params.weight_knn, "random": params.weight_random / _stego.SHUFFLES}

    def loss(batch: tuple[torch.Tensor, ...], draws: torch.Generator, step: int) -> Any:
        code = tuple(projector(x, draws) for x in batch)
        seen = tuple(drop_channels(x, params.dropout, draws) for x in batch)
        parts: dict[str, Any] = dict.fromkeys(corr.KINDS, 0.0)
        for kind, f, s in corr.pairs((seen[0], seen[1]), (code[0], code[1]), params.places, _stego.SHUFFLES, draws):
            parts[kind] = parts[kind] + weights[kind] * corr.loss(f, s, shifts[kind])
        cosine = prototypes(code[0].detach())
        parts["probe"] = probe_loss(cosine)
        return sum(parts.values()), len(batch[0]), parts | usage(cosine.detach())

    task = _trainer.HeadTask(
        head, [(list(projector.parameters()), params.learning_rate), ([prototypes.weight], params.probe_rate)],
        lambda step: [_stego.batch(images, params, training, step)], loss, params.steps, params.batch_size,
        monitors=(*corr.KINDS, "probe", "entropy", "used", "largest"),
    )  # fmt: skip
    tensors, diagnostics = _trainer.train(task, training)
    after = _stego.measured(images, params, training, head.codes)
    return tensors, diagnostics | {"shifts": shifts, "histograms": corr.histograms(before, after)}

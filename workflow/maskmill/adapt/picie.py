"""PiCIE: clusters of two views of the tokens teach each other, so that classes do not follow the view.

Cho, Mall, Bala and Hariharan, PiCIE: unsupervised semantic segmentation using invariance and equivariance in clustering
(CVPR 2021). At the start of an epoch each view's features are clustered; then each view predicts its own labels and
those of the other view with the centroids as frozen classifiers. Class weights are the clusters' shares, as in the
code, which favours large clusters. `over_clusters: 100` is PiCIE+H: the same losses for a second, finer clustering.

What differs, where tokens are frozen and pixels are not seen (`unfreeze: true` trains the backbone, on photos): the
network is a head on one grid instead of a ResNet with a feature pyramid. Hidden, scaled and shifted channels stand in
for the photometric jitter (see `_views`); they are no change of light that a camera would make. The geometric
equivariance is nearly free for a head that treats every token alone (only interpolation tells a crop before it from one
after it), so the two views differ mainly by their channels. Class weights count the tokens as the clustering passed
them, not by a second pass. The prototypes are a last, spherical clustering of the whole images (the code's evaluation
"with fresh clusters").
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from maskmill.adapt import Traits
from maskmill.adapt._views import SelfLabelParams

if TYPE_CHECKING:
    import torch

    from maskmill.adapt._data import Images
    from maskmill.adapt._encoder import Encoder
    from maskmill.adapt._selflabel import SelfLabeller
    from maskmill.adapt._training import HeadTraining

TRAITS = Traits(neighbours=False, per_image=False, crops=False, trains_backbone=True)


class Params(SelfLabelParams):
    """Settings. Defaults: COCO-Stuff."""

    over_clusters: int = Field(0, ge=0, le=65534, description="clusters of a second, finer clustering (+H: 100)")


def code_length(params: Params, clusters: int) -> int:
    """Length of a code: dimensions."""
    return params.dimensions


def build(depth: int, params: Params, clusters: int, encoder: Encoder | None = None) -> torch.nn.Module:
    """The head: `codes` [n, d, h, w] -> [n, c, h, w] of unit length, and `prototypes`."""
    from maskmill.adapt._selflabel import UnitHead, small_head

    return UnitHead(small_head(depth, params, encoder), clusters, params.dimensions)


def levels(clusters: int, params: Params) -> list[tuple[int, float]]:
    """(clusters, weight of the loss) of each clustering; weights of +H: log K2, log K1 over their sum."""
    if not params.over_clusters:
        return [(clusters, 1.0)]
    one, two = math.log(clusters), math.log(params.over_clusters)
    return [(clusters, two / (one + two)), (params.over_clusters, one / (one + two))]


def fit(images: Images, params: Params, training: HeadTraining) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Train; tensors `head.*`, and diagnostics: loss, monitors.

    Raises:
        NumericsError: a loss that is not finite, or features that have collapsed.
    """
    from maskmill.adapt import _selflabel, _trainer, _views

    head = _trainer.seeded(training, lambda: build(images.depth, params, training.clusters, images.encoder))
    parts, length = levels(training.clusters, params), _selflabel.epoch(len(images), params)
    model = _selflabel.SelfLabeller(head, [k for k, _ in parts], 2, params.scale, images.multiple)

    def loss(batch: tuple[torch.Tensor, ...], draws: torch.Generator, step: int) -> Any:
        inputs = model.inputs(batch)
        phi, frozen = model.features(inputs), model.frozen_features(inputs)
        losses = [view_losses(model, phi, frozen, level) for level in range(len(parts))]
        total = sum(w * (within + across) / 2 for (within, across), (_, w) in zip(losses, parts, strict=True))
        seen: dict[str, Any] = {"within": losses[0][0], "across": losses[0][1]}
        if len(parts) > 1:
            seen["over"] = (losses[1][0] + losses[1][1]) / 2
        scores = _selflabel.logits(phi[0].detach(), model.centroids(0, 0))
        return total, len(batch[0]), _selflabel.monitors(seen, scores)

    task = _trainer.HeadTask(
        model, _selflabel.rates(head.projector, (), params),
        lambda step: [_views.batch(images, params, training, step)], loss, params.steps, params.batch_size,
        monitors=("within", "across", *(["over"] if len(parts) > 1 else []), "entropy", "used", "largest"),
        before=_selflabel.epoch_clustering(model, images, params, training, length),
    )  # fmt: skip
    _, diagnostics = _trainer.train(task, training)
    return _selflabel.final_tensors(model, images, params, training), diagnostics


def view_losses(
    model: SelfLabeller, phi: list[torch.Tensor], frozen: list[torch.Tensor], level: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses within and across views: features of view v and the labels of view u, with the centroids of u.

    Args:
        phi, frozen: unit features [n, c, h, w] of each view; the labels come from the frozen ones.
    """
    from maskmill.adapt._selflabel import cross_entropy, logits

    labels = [model.labels(frozen[u], level, u) for u in range(2)]
    loss = [
        [cross_entropy(logits(phi[v], model.centroids(level, u)), labels[u], model.weights(level, u)) for u in range(2)]
        for v in range(2)
    ]
    return (loss[0][0] + loss[1][1]) / 2, (loss[0][1] + loss[1][0]) / 2

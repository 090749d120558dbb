"""MDC: clusters of the tokens are the labels of an epoch, and a new classifier learns them together with the head.

DeepCluster (Caron, Bojanowski, Joulin and Douze, ECCV 2018) for every place of an image, as modified and published for
comparison by Cho, Mall, Bala and Hariharan, PiCIE (CVPR 2021): one view with PiCIE's transformations, mini-batch
k-means, a linear classifier that starts anew every epoch with an optimiser of its own, class weights that are the
clusters' shares.

What differs, where tokens are frozen and pixels are not seen (`unfreeze: true` trains the backbone, on photos): as in
`picie`. The prototypes are a last, spherical clustering of the whole images, as the code evaluates MDC ("fresh
clusters").
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from maskmill.adapt import Traits
from maskmill.adapt._views import SelfLabelParams

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from maskmill.adapt._data import Images
    from maskmill.adapt._encoder import Encoder
    from maskmill.adapt._training import HeadTraining

TRAITS = Traits(neighbours=False, per_image=False, crops=False, trains_backbone=True)
DEVIATION = 0.01  # of a new classifier's weights


class Params(SelfLabelParams):
    """Settings. Defaults: COCO-Stuff."""


def code_length(params: Params, clusters: int) -> int:
    """Length of a code: dimensions."""
    return params.dimensions


def build(depth: int, params: Params, clusters: int, encoder: Encoder | None = None) -> torch.nn.Module:
    """The head: `codes` [n, d, h, w] -> [n, c, h, w] of unit length, and `prototypes`."""
    from maskmill.adapt._selflabel import UnitHead, small_head

    return UnitHead(small_head(depth, params, encoder), clusters, params.dimensions)


def fit(images: Images, params: Params, training: HeadTraining) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Train; tensors `head.*`, and diagnostics: loss, monitors.

    Raises:
        NumericsError: a loss that is not finite, or features that have collapsed.
    """
    import torch

    from maskmill.adapt import _selflabel, _trainer, _views

    head = _trainer.seeded(training, lambda: build(images.depth, params, training.clusters, images.encoder))
    length = _selflabel.epoch(len(images), params)
    model = _selflabel.SelfLabeller(head, [training.clusters], 1, params.scale, images.multiple)
    classifier = torch.nn.Conv2d(params.dimensions, training.clusters, 1).to(training.device)
    model.classifier = classifier  # in the checkpoint
    cluster = _selflabel.epoch_clustering(model, images, params, training, length)

    def before(step: int) -> Sequence[torch.nn.Parameter]:
        cluster(step)
        return (
            reset_classifier(classifier, _trainer.generator(training, "classifier", str(step)))
            if step % length == 0
            else ()
        )

    def loss(batch: tuple[torch.Tensor, ...], draws: torch.Generator, step: int) -> Any:
        inputs = model.inputs(batch)
        scores = classifier(model.features(inputs)[0])
        labels = model.labels(model.frozen_features(inputs)[0], 0, 0)
        found = _selflabel.cross_entropy(scores, labels, model.weights(0, 0))
        return found, len(batch[0]), _selflabel.monitors({"labels": found}, scores)

    task = _trainer.HeadTask(
        model, _selflabel.rates(head.projector, classifier.parameters(), params),
        lambda step: [_views.batch(images, params, training, step)], loss, params.steps, params.batch_size,
        monitors=("labels", "entropy", "used", "largest"), before=before,
    )  # fmt: skip
    _, diagnostics = _trainer.train(task, training)
    return _selflabel.final_tensors(model, images, params, training), diagnostics


def reset_classifier(classifier: torch.nn.Conv2d, draws: torch.Generator) -> list[torch.nn.Parameter]:
    """Start the classifier anew; its parameters."""
    import torch

    with torch.no_grad():
        weight, bias = classifier.parameters()
        weight.normal_(0, DEVIATION, generator=draws)
        bias.zero_()
    return [weight, bias]

"""A small convolutional decoder on frozen tokens, trained on the masks of the round before.

The self-training step of COMUS (section 3.4: a network trained on filtered pseudo-masks makes better masks than
the ones it was given), with a head on stored features in place of a DeepLabv3 on pixels: no image is decoded again,
and a round costs minutes on a CPU. What makes it better than its teacher is that a mask's errors differ from image to
image while the features that explain it do not, so the head learns what the masks agree on.

Each feature set is standardised, reduced to `dimensions` principal components and laid on the finest grid of the
image; the head sees them side by side. Targets are the shares of the classes among a token's known mask cells; cells
marked ignore take no part. Every round starts from fresh weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from maskmill.rounds import Traits
from maskmill.rounds.token_head.params import Params

if TYPE_CHECKING:
    import torch

    from maskmill.rounds._masks import Masks
    from maskmill.rounds._training import Sources, StudentTraining
    from maskmill.rounds.token_head.features import LabelledFeatures
    from maskmill.rounds.token_head.predictor import TokenPredictor

TRAITS = Traits(photos=False, instances=False)
CLASSIFIER = ("head.classify.weight", "head.classify.bias")  # tensors with a row a class


def data(sources: Sources, masks: Masks, params: Params, training: StudentTraining) -> LabelledFeatures:
    """Aligned features and targets; the projections are those of the student to go on from, or fitted here."""
    from maskmill.rounds.token_head.features import LabelledFeatures
    from maskmill.rounds.token_head.predictor import projections_of

    images = LabelledFeatures(sources.features, masks, params.cache_mib)
    if training.before:
        images.projections = projections_of(training.before, list(sources.features))
    else:
        images.fit_projections(params.dimensions, params.max_fit_points, training.seed)
    return images


def fit(
    examples: LabelledFeatures, params: Params, training: StudentTraining
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Train a head; (its tensors, diagnostics with the loss of every step and the timing).

    The result depends on the seed and on the content of the images, not on the threads: a step is always split into
    the same micro-batches, each computed by one thread, and their gradients are added in order.

    Raises:
        NumericsError: the loss is not finite. StoppedError: SIGTERM or SIGUSR1 came.
    """
    from maskmill.rounds.token_head.training import train_head

    tensors, diagnostics = train_head(examples, params, training)
    for name, projection in examples.projections.items():
        tensors |= {f"{name}.mean": projection.mean, f"{name}.weight": projection.weight}
    return tensors, diagnostics


def load(
    tensors: Mapping[str, np.ndarray], spec: Mapping[str, Any], params: Params, device: torch.device
) -> TokenPredictor:
    """The trained head, from what its file holds."""
    from maskmill.rounds.token_head.predictor import TokenPredictor

    return TokenPredictor(tensors, spec, params, device)


__all__: Sequence[str] = ("CLASSIFIER", "TRAITS", "Params", "data", "fit", "load")

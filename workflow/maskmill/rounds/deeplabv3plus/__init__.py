"""DeepLabv3+ trained on photos and the masks of the round before.

Sources: the network is that of Chen et al. (ECCV 2018). Training follows the self-training of Deep Spectral Methods
(Melas-Kyriazi et al., CVPR 2022, supplement): encoder frozen but for its last level, output stride 8, AdamW with
learning rate 2e-4 falling linearly to 0 over 5000 steps, random resized crops of 224 px, flips, colour jitter (.4, .4,
.2, .1) with chance .8, grey .2, blur .1. MaskDistill (Van Gansbeke et al., 2022) is `loss: ohem, hardest: 0.2,
optimiser: sgd, learning_rate: 0.002, weight_decay: 1e-4, crop: 512`; COMUS's cross-entropy over all pixels is the
default here as well.

The encoder is any timm CNN, named by a feature set of the recipe (`encoder`): its backbone and checkpoint are used, not
its size. `docs/rounds.md` says where this departs from the papers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from maskmill.rounds import Traits
from maskmill.rounds.deeplabv3plus.params import Params

if TYPE_CHECKING:
    import torch

    from maskmill.rounds._masks import Masks
    from maskmill.rounds._training import Sources, StudentTraining
    from maskmill.rounds.deeplabv3plus.crops import LabelledPhotos
    from maskmill.rounds.deeplabv3plus.predictor import PixelPredictor

TRAITS = Traits(photos=True, instances=False)
CLASSIFIER = ("network.classify.weight", "network.classify.bias")  # tensors with a row a class


def data(sources: Sources, masks: Masks, params: Params, training: StudentTraining) -> LabelledPhotos:
    """The photos of the manifest that the masks belong to."""
    from maskmill.rounds.deeplabv3plus.crops import LabelledPhotos

    return LabelledPhotos(sources, masks, params)


def fit(
    examples: LabelledPhotos, params: Params, training: StudentTraining
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Train the network; (all of its tensors, diagnostics with the loss of every step and the timing).

    The result depends on the seed, the photos and the masks, not on threads or on the processes that decode.

    Raises:
        NumericsError: the loss is not finite. StoppedError: SIGTERM or SIGUSR1 came. InputError: a photo has changed.
        ConfigError: the encoder is no CNN with feature levels, or cannot dilate to the output stride.
    """
    from maskmill.rounds.deeplabv3plus.training import train_network

    return train_network(examples, params, training)


def load(
    tensors: Mapping[str, np.ndarray], spec: Mapping[str, Any], params: Params, device: torch.device
) -> PixelPredictor:
    """The trained network, from what its file holds; it needs no weights file."""
    from maskmill.rounds.deeplabv3plus.predictor import PixelPredictor

    return PixelPredictor(tensors, spec, params, device)


__all__: Sequence[str] = ("CLASSIFIER", "TRAITS", "Params", "data", "fit", "load")

"""Things and stuff by self-training: the network of `instance` with a semantic head on the same pyramid (U2Seg).

Source: U2Seg (Niu et al., Unsupervised Universal Image Segmentation, CVPR 2024), whose network is a Panoptic FPN
(Kirillov et al., CVPR 2019) with Cascade Mask R-CNN. Here the instances are those of the student `instance` (CondInst),
each with a class; the semantic head tells classes of stuff, and one class of all things, apart; both are merged by the
rule of Panoptic FPN. What is learnt are the instances and the masks of the round before, whose classes behind those of
the segments are stuff (`paint.stuff`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from maskmill.rounds import Traits
from maskmill.rounds.panoptic.params import Params

if TYPE_CHECKING:
    import torch

    from maskmill.rounds._masks import Masks
    from maskmill.rounds._training import Sources, StudentTraining
    from maskmill.rounds.panoptic.crops import PanopticPhotos
    from maskmill.rounds.panoptic.predictor import PanopticPredictor

TRAITS = Traits(photos=True, instances=True, semantic=True)
CLASSIFIER: tuple[str, ...] = ()  # its classes keep their ids


def data(sources: Sources, masks: Masks, params: Params, training: StudentTraining) -> PanopticPhotos:
    """The photos that have instances, these, and the classes of stuff between them.

    Raises:
        NumericsError: no photo has an instance. ConfigError: no instances, manifest or weights are given.
        StoreError: the masks have no classes of stuff.
    """
    from maskmill.rounds.panoptic.crops import PanopticPhotos

    return PanopticPhotos(sources, masks, params)


def fit(
    examples: PanopticPhotos, params: Params, training: StudentTraining
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Train the network; see `maskmill.rounds.instance.fit`."""
    from maskmill.rounds.panoptic.training import train_network

    return train_network(examples, params, training)


def load(
    tensors: Mapping[str, np.ndarray], spec: Mapping[str, Any], params: Params, device: torch.device
) -> PanopticPredictor:
    """The trained network, from what its file holds; it needs no weights file."""
    from maskmill.rounds.panoptic.predictor import PanopticPredictor

    return PanopticPredictor(tensors, spec, params, device)


__all__: Sequence[str] = ("CLASSIFIER", "TRAITS", "Params", "data", "fit", "load")

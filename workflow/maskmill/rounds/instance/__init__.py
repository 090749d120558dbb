"""Instances by self-training: a network without proposals, trained on the objects that the cut found (CutLER).

Sources: CutLER (Wang et al., CVPR 2023) for DropLoss, copy-paste and what is kept from round to round; the network is
that of CondInst (Tian et al., ECCV 2020) and the suppression of doubles that of SOLOv2 (Wang et al., NeurIPS 2020)
instead of CutLER's Cascade Mask R-CNN. MaskDistill (Van Gansbeke et al., 2022) trains a class-aware detector on one
object an image and paints its detections: `paint_score: 0.9`, then a round of deeplabv3plus. With `clusters: 1` the
student is CutLER's, class-agnostic; with k clusters every instance has a class.

The encoder is any timm CNN or plain ViT, named by a feature set of the recipe (`encoder`): its backbone and checkpoint
are used, not its size. `docs/rounds.md` says where this departs from the papers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from maskmill.rounds import Traits
from maskmill.rounds.instance.params import Params

if TYPE_CHECKING:
    import torch

    from maskmill.rounds._instance_photos import InstancePhotos
    from maskmill.rounds._masks import Masks
    from maskmill.rounds._training import Sources, StudentTraining
    from maskmill.rounds.instance.predictor import InstancePredictor

TRAITS = Traits(photos=True, instances=True)
CLASSIFIER = ("network.classify.weight", "network.classify.bias")  # tensors with a row a class
TEACHING = ("keep_score", "merge_iou")  # what decides which instances a round learns from, not how


def data(sources: Sources, masks: Masks, params: Params, training: StudentTraining) -> InstancePhotos:
    """The photos that have instances, and these.

    Raises:
        NumericsError: no photo has one. ConfigError: no instances, manifest or weights are given.
    """
    from maskmill.rounds._instance_photos import InstancePhotos

    return InstancePhotos(sources, masks, params, training.classes, "instance")


def fit(
    examples: InstancePhotos, params: Params, training: StudentTraining
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Train the network; (all of its tensors, diagnostics with the loss of every step and the timing).

    The result depends on the seed, the photos and their instances, not on threads or on the processes that decode.

    Raises:
        NumericsError: the loss is not finite. StoppedError: SIGTERM or SIGUSR1 came. InputError: a photo has changed.
        ConfigError: the encoder is neither a CNN with levels of stride 4 to 32 nor a plain ViT.
    """
    from maskmill.rounds.instance.training import train_network

    return train_network(examples, params, training)


def load(
    tensors: Mapping[str, np.ndarray], spec: Mapping[str, Any], params: Params, device: torch.device
) -> InstancePredictor:
    """The trained network, from what its file holds; it needs no weights file."""
    from maskmill.rounds.instance.predictor import InstancePredictor

    return InstancePredictor(tensors, spec, params, device)


__all__: Sequence[str] = ("CLASSIFIER", "TEACHING", "TRAITS", "Params", "data", "fit", "load")

"""Instances from coarse masks by weak supervision: a SOLOv2 that learns where objects are, not their exact shape.

Wang, Yu, De Mello, Kautz, Anandkumar, Shen, Alvarez, "FreeSOLO: Learning to segment objects without annotations", CVPR
2022, section 3.2. The network is that of SOLOv2 (Wang et al., NeurIPS 2020): cells of grids predict whether an object
is there, and a kernel that turns the mask features of the photo into its mask. The coarse masks are trusted for their
extent in x and y alone; neighbouring cells of one colour shall be in one mask, which gives the masks their edges
(BoxInst: Tian et al., CVPR 2021). A second round learns from the predictions of the first.

The encoder is any timm CNN or plain ViT, named by a feature set of the recipe (`encoder`): its backbone and checkpoint
are used, not its size. `docs/rounds.md` says where this departs from the paper.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from maskmill.rounds import Traits
from maskmill.rounds.freesolo.params import Params

if TYPE_CHECKING:
    import torch

    from maskmill.rounds._instance_photos import InstancePhotos
    from maskmill.rounds._masks import Masks
    from maskmill.rounds._training import Sources, StudentTraining
    from maskmill.rounds.freesolo.predictor import SoloPredictor

TRAITS = Traits(photos=True, instances=True)
CLASSIFIER = ("network.classify.weight", "network.classify.bias")  # tensors with a row a class


def data(sources: Sources, masks: Masks, params: Params, training: StudentTraining) -> InstancePhotos:
    """The photos that have instances, and these.

    Raises:
        NumericsError: no photo has one. ConfigError: no instances, manifest or weights are given.
    """
    from maskmill.rounds._instance_photos import InstancePhotos

    return InstancePhotos(sources, masks, params, training.classes, "freesolo")


def fit(
    examples: InstancePhotos, params: Params, training: StudentTraining
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Train the network; (all of its tensors, diagnostics with the loss of every step and the timing).

    The result depends on the seed, the photos and their instances, not on threads or on the processes that decode.

    Raises:
        NumericsError: the loss is not finite. StoppedError: SIGTERM or SIGUSR1 came. InputError: a photo has changed.
        ConfigError: the encoder is neither a CNN with levels of stride 4 to 32 nor a plain ViT.
    """
    from maskmill.rounds.freesolo.training import train_network

    return train_network(examples, params, training)


def load(
    tensors: Mapping[str, np.ndarray], spec: Mapping[str, Any], params: Params, device: torch.device
) -> SoloPredictor:
    """The trained network, from what its file holds; it needs no weights file."""
    from maskmill.rounds.freesolo.predictor import SoloPredictor

    return SoloPredictor(tensors, spec, params, device)


__all__: Sequence[str] = ("CLASSIFIER", "TRAITS", "Params", "data", "fit", "load")

"""SwAV: every crop of a photo predicts which prototypes the other crops were assigned to.

Caron, Misra, Mairal, Goyal, Bojanowski and Joulin, Unsupervised Learning of Visual Features by Contrasting Cluster
Assignments (NeurIPS 2020). Settings are those of its code for batches of 256 photos (`swav_200ep_bs256_pretrain.sh`);
with batches of 4096 the paper has a rate of 4.8 (0.0048 at the end), a warm-up of ten epochs, no queue, and holds the
prototypes for 313 steps.

Batch norms see a micro-batch (published: the whole batch, over all GPUs). Prototypes are assigned over the whole batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from maskmill.pretrain import Traits
from maskmill.pretrain._multicrop import MultiCropParams, crops

if TYPE_CHECKING:
    from maskmill.backbones.learning import Learning
    from maskmill.pretrain._learner import Learner
    from maskmill.pretrain._views import CropSpec

TRAITS = Traits(dense=False)


class Params(MultiCropParams):
    """Settings. Defaults: 200 epochs of ImageNet in batches of 256."""

    prototypes: int = Field(3000, ge=2, description="prototypes that crops are assigned to")
    epsilon: float = Field(0.05, gt=0, description="temperature of the assignments, before they are balanced")
    iterations: int = Field(3, ge=1, le=100, description="of Sinkhorn and Knopp")
    queue: int = Field(3840, ge=0, description="earlier vectors of each large crop that are assigned too; 0: none")
    queue_start: float = Field(
        0.075, ge=0, le=1, description="share of the steps after which the queue is filled; published: 15 of 200 epochs"
    )
    freeze_prototypes: float = Field(
        0.005,
        ge=0,
        le=1,
        description="share of the steps in which the prototypes stay as they are; published: an epoch",
    )


def views(params: Params) -> tuple[CropSpec, ...]:
    """Two large crops, then the small ones."""
    return crops(params)


def build(network: Learning, params: Params, photos: int) -> Learner:
    """The network with its head, and prototypes of unit length."""
    from maskmill.pretrain.swav.learner import SwAV

    return SwAV(network, params)

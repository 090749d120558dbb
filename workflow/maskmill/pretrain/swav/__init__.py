"""SwAV: every crop of a photo predicts which prototypes the other crops were assigned to.

Caron, Misra, Mairal, Goyal, Bojanowski and Joulin, Unsupervised Learning of Visual Features by Contrasting Cluster
Assignments (NeurIPS 2020). Settings are those of its code for batches of 256 photos (`swav_200ep_bs256_pretrain.sh`);
with batches of 4096 the paper has a rate of 4.8 (0.0048 at the end), a warm-up of ten epochs, no queue, and holds the
prototypes for 313 steps.

Batch norms see a micro-batch (published: the whole batch, over all GPUs). Prototypes are assigned over the whole batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from maskmill.pretrain import Traits
from maskmill.pretrain._multicrop import crops
from maskmill.pretrain.swav.settings import Params

if TYPE_CHECKING:
    from maskmill.backbones.learning import Learning
    from maskmill.pretrain._learner import Learner
    from maskmill.pretrain._views import CropSpec

__all__ = ["TRAITS", "Params", "build", "views"]
TRAITS = Traits(dense=False)


def views(params: Params) -> tuple[CropSpec, ...]:
    """Two large crops, then the small ones."""
    return crops(params)


def build(network: Learning, params: Params, photos: int) -> Learner:
    """The network with its head, and prototypes of unit length."""
    from maskmill.pretrain.swav.learner import SwAV

    return SwAV(network, params)

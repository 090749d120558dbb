"""MoCo v2: a photo's crop finds the other crop of the photo among those of many earlier photos.

Chen, Fan, Girshick and He, Improved Baselines with Momentum Contrastive Learning (arXiv:2003.04297), on He, Fan, Wu,
Xie and Girshick, Momentum Contrast (CVPR 2020). Settings are those of its code for a ResNet-50 on ImageNet, 200 epochs.

Crops that are keys are computed by a slow copy of the network in other micro-batches than the queries of their photos,
as the paper's shuffled batch norm does between GPUs; a micro-batch is what a GPU is there, so 32 photos as published.
Not as in the paper: keys of a query's own photo that are still in the queue are no negatives of it
(`own_keys: false`). In ImageNet an epoch is longer than the queue and there are hardly any; among a few thousand photos
they would be most of what looks like the query.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from maskmill.pretrain import Traits
from maskmill.pretrain.moco.settings import Params

if TYPE_CHECKING:
    from maskmill.backbones.learning import Learning
    from maskmill.pretrain._learner import Learner
    from maskmill.pretrain._views import CropSpec

__all__ = ["TRAITS", "Params", "build", "views"]
TRAITS = Traits(dense=False, regrouped=True)


def views(params: Params) -> tuple[CropSpec, ...]:
    """The query and the key, drawn alike."""
    from maskmill.pretrain._light import Light
    from maskmill.pretrain._views import CropSpec

    light = Light(jitter=(0.4, 0.4, 0.4, 0.1), jitter_chance=0.8, grey=0.2, blur=0.5, blur_sigma=(0.1, 2.0))
    return (CropSpec(side=params.crop, scale=params.scale, light=light),) * 2


def build(network: Learning, params: Params, photos: int) -> Learner:
    """The network with its head, their slow copies and a queue of random keys.

    Raises:
        ConfigError: batch norms, and a batch of a single micro-batch: nothing could be shuffled.
    """
    from maskmill.pretrain.moco.learner import MoCo

    return MoCo(network, params)

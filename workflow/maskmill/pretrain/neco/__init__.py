"""NeCo: the patches of two crops order the patches of other photos alike.

Pariza, Salehi, Burghouts, Locatello and Asano, "Near, far: patch-ordering enhances vision foundation models' scene
understanding" (ICLR 2025). A student learns from its moving average. Where two crops of a photo overlap, both networks'
projected tokens are read on one grid (RoIAlign). Every cell has cosines with reference patches, most of them of other
photos, and a differentiable sorting network turns them into shares of the places of an order; the student's shares
learn the teacher's by cross-entropy, for both global crops of the teacher against all other crops of the student. It is
a short training that starts from good weights, not from scratch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from maskmill.pretrain import Traits
from maskmill.pretrain.neco._params import GLOBAL, Params

if TYPE_CHECKING:
    import numpy as np

    from maskmill.backbones.learning import Learning
    from maskmill.pretrain._learner import Learner
    from maskmill.pretrain._views import CropSpec

TRAITS = Traits(dense=True)


def views(params: Params) -> tuple[CropSpec, ...]:
    """Two global crops, then the local ones; none is mirrored."""
    from maskmill.pretrain._light import Light
    from maskmill.pretrain._views import CropSpec

    light = Light(jitter=(0.8, 0.8, 0.8, 0.2))
    whole = CropSpec(side=params.global_side, scale=params.global_scale, flip=0.0, light=light)
    local = CropSpec(side=params.local_side, scale=params.local_scale, flip=0.0, light=light)
    return (whole,) * GLOBAL + (local,) * params.local_crops


def draw(params: Params, height: int, width: int, generator: np.random.Generator) -> np.ndarray:
    """Boxes [crops, 4] in shares of the photo, each of which meets both global ones."""
    from maskmill.pretrain._overlap import overlapping_boxes

    scales = [params.global_scale] * GLOBAL + [params.local_scale] * params.local_crops
    return overlapping_boxes((height, width), scales, GLOBAL, params.overlap, generator)


def build(network: Learning, params: Params, photos: int) -> Learner:
    """The learner; a teacher with a copy of the network."""
    from maskmill.pretrain.neco._learner import NeCo

    return NeCo(network, params)

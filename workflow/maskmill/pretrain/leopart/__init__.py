"""Leopart: a network whose tokens name object parts, learnt by clustering the tokens of what two crops both show.

Ziegler and Asano, Self-supervised learning of object parts for semantic segmentation (CVPR 2022), sections 3.1 and 3.2.
A teacher, the moving average of the student, assigns the tokens of each global crop softly to prototypes, in equal
parts by Sinkhorn's iterations. The student predicts these assignments from every other crop: both maps are read with
RoIAlign where the two crops overlap, and only what the teacher's cls token attends to counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from maskmill.errors import ConfigError
from maskmill.pretrain import Traits
from maskmill.pretrain._overlap import overlapping_boxes
from maskmill.pretrain.leopart.params import WHOLE, Params

if TYPE_CHECKING:
    from maskmill.backbones.learning import Learning
    from maskmill.pretrain._views import CropSpec
    from maskmill.pretrain.leopart.learner import Leopart

TRAITS = Traits(dense=True)


def views(params: Params) -> tuple[CropSpec, ...]:
    """Two global crops and the local ones. None is mirrored: tokens are compared place by place."""
    from maskmill.pretrain._light import Light
    from maskmill.pretrain._views import CropSpec

    light = Light(jitter=(0.8, 0.8, 0.8, 0.2), jitter_chance=0.8, grey=0.2, blur=0.5, blur_sigma=(0.1, 2.0))
    whole = CropSpec(side=params.crop, scale=params.scale, flip=0.0, light=light)
    part = CropSpec(side=params.local_crop, scale=params.local_scale, flip=0.0, light=light)
    return (whole,) * WHOLE + (part,) * params.local_crops


def draw(params: Params, height: int, width: int, generator: np.random.Generator) -> np.ndarray:
    """Boxes [crops, 4] of a photo, all of which meet both global crops."""
    scales = [params.scale] * WHOLE + [params.local_scale] * params.local_crops
    return overlapping_boxes((height, width), scales, WHOLE, params.overlap, generator)


def build(network: Learning, params: Params, photos: int) -> Leopart:
    """The untrained learner around a network.

    Raises:
        ConfigError: a network without a cls token whose attention is wanted, or crops that its patches do not fill.
    """
    if params.foreground == "attention" and network.heads is None:
        raise ConfigError(
            "pretrain: foreground: attention needs a ViT with a cls token and plain attention; set foreground: all, or "
            "name another backbone"
        )
    for name in ("crop", "local_crop"):
        side = getattr(params, name)
        if network.is_vit and side % network.stride:
            near = max(1, round(side / network.stride)) * network.stride
            raise ConfigError(
                f"pretrain: {name}: {side} is no multiple of the patch size {network.stride} of the backbone; "
                f"set {name}: {near}"
            )
    from maskmill.pretrain.leopart.learner import Leopart

    return Leopart(network, params)

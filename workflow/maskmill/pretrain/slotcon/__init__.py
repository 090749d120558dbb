"""SlotCon: places are grouped by prototypes that learn, and the groups of an image are contrasted.

Wen, Zhao, Zheng, Zhang and Qi, "Self-supervised visual representation learning with semantic grouping" (NeurIPS 2022).
Student and teacher project every place of their map and compare it with prototypes. Where the two crops of a photo
overlap, the student's shares of the prototypes learn the teacher's, which are centred (grouping). The mean of a crop's
places, weighted by their shares of a prototype, is a slot; a slot of the student is to find the slot of the same
prototype in the teacher's view of the other crop, among the slots of all photos (contrast).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from maskmill.pretrain import Traits
from maskmill.pretrain.slotcon._params import Params

if TYPE_CHECKING:
    import numpy as np

    from maskmill.backbones.learning import Learning
    from maskmill.pretrain._learner import Learner
    from maskmill.pretrain._views import CropSpec

TRAITS = Traits(dense=True)
TRIES = 10  # draws of the second crop


def views(params: Params) -> tuple[CropSpec, ...]:
    """Two crops in the lights of BYOL: the first always blurred, the second rarely, and sometimes solarised."""
    from maskmill.pretrain._light import Light
    from maskmill.pretrain._views import CropSpec

    lights = (Light(blur=1.0), Light(blur=0.1, solarise=0.2))
    return tuple(CropSpec(side=params.side, scale=params.scale, light=light) for light in lights)


def draw(params: Params, height: int, width: int, generator: np.random.Generator) -> np.ndarray:
    """Boxes [2, 4] in shares of the photo; the second is drawn anew until it meets the first, at most ten times.

    Two crops that do not meet are learnt from by the contrast only.
    """
    import numpy as np

    from maskmill.images.crops import draw_box
    from maskmill.pretrain._overlap import area, meet

    first = draw_box(height, width, params.scale, generator)
    for _ in range(TRIES):
        second = draw_box(height, width, params.scale, generator)
        if area(meet(first, second)) >= params.overlap * area(second):
            return np.array([first, second])
    return np.array([first, draw_box(height, width, params.scale, generator)])


def build(network: Learning, params: Params, photos: int) -> Learner:
    """The learner; a teacher with a copy of the network, the projector and the prototypes."""
    from maskmill.pretrain.slotcon._learner import SlotCon

    return SlotCon(network, params)

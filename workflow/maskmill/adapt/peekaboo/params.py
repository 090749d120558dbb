"""Settings of PEEKABOO, apart because both of its files read them."""

from __future__ import annotations

from pydantic import Field

from maskmill.adapt._object_params import ObjectParams


class Params(ObjectParams):
    """Settings of the strokes, the losses and the training; defaults as published but for `background_steps`."""

    weight_masked: float = Field(1.0, ge=0, description="weight of the solved masks of masked photos")
    consistency: float = Field(0.0, ge=0, description="weight of the squared difference between both photos' masks")
    hidden: float = Field(0.4, gt=0, lt=1, description="share of a photo that strokes hide, or a little more")

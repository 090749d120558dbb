"""What every student's training has in common; each student's `Params` adds its own."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from maskmill.recipe.base import Model


class Training(Model):
    """Loss and averaging of the weights."""

    loss: Literal["ce", "focal", "ohem"] = Field("ce", description="cross-entropy, focal, or of the hardest cells only")
    gamma: float = Field(2.0, ge=0, le=10, description="loss focal: cells weigh (1 - p) ** gamma")
    hardest: float = Field(0.2, gt=0, le=1, description="loss ohem: share of the known cells that count (MaskDistill)")
    ema: float = Field(0.0, ge=0, lt=1, description="the student is a moving average with this decay; 0: last weights")

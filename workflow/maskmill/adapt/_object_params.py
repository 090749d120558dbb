"""Settings that the heads share that find objects in one pass, apart because it is read without torch."""

from __future__ import annotations

from pydantic import Field

from maskmill.recipe.base import Model

WEIGHT_DECAY = 0.01  # AdamW's own


class ObjectParams(Model):
    """Settings of the background, the losses and the training; defaults as published for DUTS-TR."""

    threshold: float = Field(0.3, ge=-1, le=1, description="cosine with the seed above which a patch is background")
    weight_solved: float = Field(1.5, ge=0, description="weight of the masks that the bilateral solver makes")
    weight_own: float = Field(4.0, ge=0, description="weight of the head's own masks, which makes them decided")
    background_steps: int = Field(100, ge=0, description="steps in which the background found first is learnt from")
    pixels: int = Field(8, ge=1, le=64, description="side of a token in pixels of the photo that the solver sees")
    steps: int = Field(500, ge=1, description="optimiser steps")
    batch_size: int = Field(50, ge=1, description="images a step")
    learning_rate: float = Field(5e-2, gt=0, description="AdamW, at the start")
    decay: float = Field(0.95, gt=0, le=1, description="what the rate is multiplied by every decay_every steps")
    decay_every: int = Field(50, ge=1, description="see decay")


def rate(step: int, params: ObjectParams) -> float:
    """Factor of the learning rate at a step."""
    return float(params.decay ** (step // params.decay_every))

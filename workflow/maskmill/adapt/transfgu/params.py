"""Settings of TransFGU, apart because all of its files read them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from maskmill.errors import ConfigError
from maskmill.recipe.base import Model

Share = Annotated[float, Field(gt=0, le=1)]


class Params(Model):
    """Settings. Defaults: PASCAL VOC, where an epoch is 57 steps (1464 photos, twenty times, in batches of 512)."""

    stuff: int = Field(0, ge=0, le=65534, description="classes of background windows; 0: one class, the background, "
                       "that is no window's")  # fmt: skip
    scales: tuple[Share, ...] = Field(
        (0.6, 0.5, 0.4, 0.3), min_length=1, description="sides of windows, shares of the photo's shorter side"
    )
    foreground: float = Field(0.5, ge=0, lt=1, description="share of attended patches above which a window is a thing")
    background: float = Field(0.8, ge=0, lt=1, description="stuff: share of other patches above which it is stuff")
    window_images: int = Field(10_000, ge=1, description="most photos whose windows are clustered, drawn by the seed")
    mass: float = Field(0.8, gt=0, le=1, description="share of the gradient's sum that a pseudo mask keeps")
    threshold: float = Field(0.1, gt=0, lt=1, description="pseudo masks below it everywhere are background")
    width: int = Field(384, ge=1, le=8192, description="of the decoder")
    heads: int = Field(6, ge=1, le=64, description="of its attention; a divisor of the width")
    blocks: int = Field(2, ge=1, le=64, description="of the decoder")
    dropout: float = Field(0.1, ge=0, lt=1, description="in the decoder's attention and MLPs")
    uncertainty: float = Field(0.3, ge=0, description="weight of the margin between the two likeliest classes")
    diversity: float = Field(1.0, ge=0, description="weight of the cosine between classes")
    bootstrap: int = Field(5, ge=1, description="epochs before the first teacher")
    intervals: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (5, 5, 5, 5, 4, 4, 4, 4, 4, 3), min_length=1, description="epochs from teacher to teacher, for every ten epochs"
    )
    epoch_steps: int = Field(57, ge=1, description="steps of an epoch")
    steps: int = Field(5700, ge=1, description="optimiser steps")
    batch_size: int = Field(512, ge=1, description="photos a step")
    learning_rate: float = Field(1e-4, gt=0, description="Adam")
    weight_decay: float = Field(5e-4, ge=0, description="of weights with more than one dimension")


def things(params: Params, clusters: int) -> int:
    """Number of classes of foreground windows; a ConfigError where too few are left."""
    found = clusters - (params.stuff or 1)
    if found < 1 or clusters - (params.stuff == 0) < 2:
        what = f"{params.stuff} of stuff" if params.stuff else "background"
        raise ConfigError(f"cluster.clusters: {clusters}, {what} included: adapt.method transfgu needs two classes of "
                          "windows; raise it, or lower adapt.stuff")  # fmt: skip
    return found


def renewals(params: Params) -> list[int]:
    """Epochs at whose start the student becomes the teacher and starts again.

    They are the first one and, as published, those that are multiples of their interval; but none whose student would
    not learn for a whole interval, as the last student is the result.
    """
    epochs, found = -(-params.steps // params.epoch_steps), []
    for epoch in range(params.bootstrap, epochs):
        interval = params.intervals[min(epoch // 10, len(params.intervals) - 1)]
        due = epoch == params.bootstrap or epoch % interval == 0
        if due and (epoch + interval) * params.epoch_steps <= params.steps:
            found.append(epoch)
    return found

"""CAUSE's settings."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from maskmill.adapt._data import Crops
from maskmill.recipe.base import Model


class Params(Model):
    """Settings of the concepts, the head and the training. Defaults: CAUSE-TR on COCO-Stuff-27; steps: its epochs."""

    head: Literal["tr", "mlp"] = Field("tr", description="a decoder of the concepts, or a projector alone")
    dimensions: int = Field(90, ge=1, le=4096, description="length of a code")
    centre: bool = Field(True, description="subtract the mean token of all images first; false: as published")
    concepts: int = Field(2048, ge=2, le=65536, description="vectors of the codebook")
    positions: int = Field(40, ge=1, le=256, description="tr: side of the grid of learnt positions")
    dropout: float = Field(0.1, ge=0, lt=1, description="share of entries hidden in training")
    crops: Crops = Field("five", description="items of the training: whole images, or five crops of each")
    stride: int = Field(4, ge=1, le=64, description="one token of so many a side is in the losses, drawn anew")
    sharpness: float = Field(0.1, gt=0, description="temperature of the modularity's tanh")
    projection: int = Field(2048, ge=1, le=8192, description="length of what is contrasted")
    temperature: float = Field(0.07, gt=0, description="of the contrast")
    near: float = Field(0.3, ge=-1, le=1, description="cosine of two concepts above which tokens are positives")
    far: float = Field(0.1, ge=-1, le=1, description="cosine below which they are negatives")
    bank: int = Field(100, ge=1, le=4096, description="older projections that are kept of every concept")
    momentum: float = Field(0.99, ge=0, lt=1, description="of the teacher")
    codebook_steps: int = Field(3900, ge=1, description="of the steps, the first ones, of the codebook")
    probe_steps: int = Field(19400, ge=1, description="of the steps, the last ones, of the prototypes")
    steps: int = Field(31000, ge=3, description="optimiser steps of all three")
    batch_size: int = Field(16, ge=2, description="items a step")
    learning_rate: float = Field(4e-3, gt=0, description="Adam")
    weight_decay: float = Field(1e-4, ge=0, description="Adam, of the head and its projection")
    clip: float = Field(2.0, gt=0, description="largest norm of the head's gradient in a step")

    @model_validator(mode="after")
    def _phases(self) -> Params:
        if self.codebook_steps + self.probe_steps >= self.steps:
            raise ValueError(
                f"steps: {self.steps}, but codebook_steps and probe_steps are {self.codebook_steps} + "
                f"{self.probe_steps} of them and leave the head none; raise steps or lower the others"
            )
        if self.far > self.near:
            raise ValueError(f"far: {self.far} is above near: {self.near}; a pair would be both; lower far")
        return self

"""What all methods of the stage let a recipe set: the length of the training, its batches, its optimiser."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from maskmill.recipe.base import Model


def _from_to(value: tuple[float, float]) -> tuple[float, float]:
    if not 0 < value[0] <= value[1] <= 1:
        raise ValueError("give two shares from and to, above 0 and at most 1, the smaller one first")
    return value


Shares = Annotated[tuple[float, float], AfterValidator(_from_to)]  # from and to


def check_overlap(least: float, scale: Shares, local_scale: Shares, local_crops: int) -> None:
    """Raise ValueError where crops of these shares can not meet as much as is asked for: globals by twice `least`."""
    for name, share, wanted in (("scale", scale, 2 * least), ("local_scale", local_scale, least)):
        if share[1] <= wanted and (local_crops or name == "scale"):
            raise ValueError(f"overlap: {least:g} asks crops to share {wanted:g} of the photo, but the largest has "
                             f"{share[1]:g}; lower it, or raise the second number of the {name}")  # fmt: skip


class TrainingParams(Model):
    """Settings of the trainer; a method gives them the values of its paper."""

    steps: int = Field(100_000, ge=1, description="optimiser steps")
    batch_size: int = Field(256, ge=2, description="photos a step, over all processes")
    micro_batch: int = Field(
        32, ge=2, description="photos that a thread computes at once, and that a batch norm sees; results depend on it"
    )
    learning_rate: float = Field(5e-4, gt=0, description="the highest one, of this batch size")
    final_rate: float = Field(1e-6, ge=0, description="at the last step, on a cosine")
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the steps in which the rate rises to the highest one")
    weight_decay: float = Field(0.04, ge=0, description="at the first step; not of biases, norms and positions")
    final_weight_decay: float | None = Field(None, ge=0, description="at the last step, on a cosine; null: the same")
    clip: float = Field(3.0, gt=0, description="largest norm of a step's gradient")
    optimiser: Literal["adamw", "adam", "sgd", "lars", "larc"] = Field(
        "adamw", description="lars and larc: the two published forms of LARS (maskmill.training.lars)"
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="of sgd, lars and larc")
    drop_path: float = Field(0.0, ge=0, lt=1, description="stochastic depth of the network that learns")

    @model_validator(mode="after")
    def _whole_micro_batches(self) -> TrainingParams:
        if self.batch_size % self.micro_batch and self.batch_size > self.micro_batch:
            raise ValueError(
                f"batch_size: {self.batch_size} is no multiple of micro_batch: {self.micro_batch}; all micro-batches "
                "have as many photos"
            )
        return self

    @property
    def micro(self) -> int:
        """Photos of a micro-batch: no more than a batch has."""
        return min(self.micro_batch, self.batch_size)

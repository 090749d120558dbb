"""Settings of MoCo v2."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from maskmill.pretrain._settings import Shares, TrainingParams


class Params(TrainingParams):
    """Settings. Defaults: 200 epochs of ImageNet on 8 GPUs."""

    crop: int = Field(224, ge=16, le=1024, description="side of both crops, pixels")
    scale: Shares = Field((0.2, 1.0), description="their share of the photo's area, from and to")
    dimensions: int = Field(128, ge=2, le=4096, description="length of queries and keys")
    hidden: int | None = Field(None, ge=1, le=16384, description="width of the head's hidden layer; null: of a token")
    queue: int = Field(65_536, ge=1, description="earlier keys that a query is told from")
    own_keys: bool = Field(
        False, description="true, as published: earlier keys of a query's own photo are negatives too"
    )
    teacher_momentum: float = Field(0.999, ge=0, lt=1, description="of the network that computes the keys")
    temperature: float = Field(0.2, gt=0, description="of the cosines")
    steps: int = Field(1_000_800, ge=1, description="optimiser steps; published: 200 epochs of ImageNet")
    learning_rate: float = Field(0.03, gt=0, description="the highest one, of this batch size")
    final_rate: float = Field(0.0, ge=0, description="at the last step, on a cosine")
    warmup: float = Field(0.0, ge=0, lt=1, description="share of the steps in which the rate rises to the highest one")
    weight_decay: float = Field(1e-4, ge=0, description="of all parameters")
    clip: float = Field(1e6, gt=0, description="largest norm of a step's gradient; published: none")
    optimiser: Literal["adamw", "adam", "sgd", "lars", "larc"] = Field("sgd", description="see TrainingParams")

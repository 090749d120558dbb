"""Settings of DeepCluster-v2."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from maskmill.pretrain._multicrop import MultiCropParams


class Params(MultiCropParams):
    """Settings. Defaults: 800 epochs of ImageNet, the rate scaled to batches of 256."""

    clusters: tuple[Annotated[int, Field(ge=2)], ...] = Field(
        (3000, 3000, 3000), min_length=1, max_length=16, description="clusters of each of the clusterings"
    )
    iterations: int = Field(10, ge=1, le=1000, description="of k-means")
    steps: int = Field(4_003_200, ge=1, description="optimiser steps; published: 800 epochs of ImageNet")
    learning_rate: float = Field(0.3, gt=0, description="the highest one, of this batch size")
    final_rate: float = Field(0.0003, ge=0, description="at the last step, on a cosine")
    warmup: float = Field(0.0125, ge=0, lt=1, description="share of the steps in which the rate rises to the highest")

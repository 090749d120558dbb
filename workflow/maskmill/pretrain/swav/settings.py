"""Settings of SwAV."""

from __future__ import annotations

from pydantic import Field

from maskmill.pretrain._multicrop import MultiCropParams


class Params(MultiCropParams):
    """Settings. Defaults: 200 epochs of ImageNet in batches of 256."""

    prototypes: int = Field(3000, ge=2, description="prototypes that crops are assigned to")
    epsilon: float = Field(0.05, gt=0, description="temperature of the assignments, before they are balanced")
    iterations: int = Field(3, ge=1, le=100, description="of Sinkhorn and Knopp")
    queue: int = Field(3840, ge=0, description="earlier vectors of each large crop that are assigned too; 0: none")
    queue_start: float = Field(
        0.075, ge=0, le=1, description="share of the steps after which the queue is filled; published: 15 of 200 epochs"
    )
    freeze_prototypes: float = Field(
        0.005,
        ge=0,
        le=1,
        description="share of the steps in which the prototypes stay as they are; published: an epoch",
    )

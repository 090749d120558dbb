"""Settings of the panoptic student: those of `instance`, and of its semantic head."""

from __future__ import annotations

from pydantic import Field

from maskmill.rounds.instance.params import Params as Instance


class Params(Instance):
    """Settings of the network, of its training, of what it learns from and of how things and stuff are merged."""

    semantic_weight: float = Field(
        0.5, ge=0, le=100, description="weight of the semantic head's cross-entropy (Panoptic FPN, U2Seg)"
    )
    overlap: float = Field(
        0.5, ge=0, le=1, description="instances of which better ones cover a larger share are not painted"
    )
    stuff_area: float = Field(
        0.0133,
        ge=0,
        lt=1,
        description="classes of stuff below this share of the image are not painted (4096 px of 640 x 480)",
    )

"""What a training is given besides its data and its method's settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from maskmill.training.checkpoint import Keeper
from maskmill.training.team import Number, Team

if TYPE_CHECKING:
    import torch


def number(value: torch.Tensor) -> Number:
    """A sum for the loop: a float where the host has computed it, else as it is; reading it makes the host wait."""
    return float(value.detach()) if value.device.type == "cpu" else value.detach().double()


@dataclass(frozen=True)
class Sources:
    """What a student may look at: stored features, or the photos of the manifest and the weights of an encoder.

    Attributes:
        features: {name: feature stores of all shards}, by name.
        instances: stores of the instances that this round learns from, where the student asks for them.
    """

    features: Mapping[str, Sequence[str | Path]] = field(default_factory=dict)
    manifest: str | Path | None = None
    weights: str | Path | None = None
    instances: Sequence[str | Path] = ()


@dataclass(frozen=True)
class StudentTraining:
    """One training.

    Attributes:
        classes: k + 1, background first. seed: of this round. threads: CPU threads, results do not depend on them.
        keeper: where checkpoints go. before: tensors of the student to go on from; empty for fresh weights.
        team: the processes that share the work.
    """

    classes: int
    seed: int
    device: torch.device
    threads: int = 1
    keeper: Keeper = field(default_factory=Keeper)
    before: Mapping[str, np.ndarray] = field(default_factory=dict)
    team: Team = field(default_factory=Team)

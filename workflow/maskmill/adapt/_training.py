"""What the training of a head is given besides its tokens and its method's settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from maskmill.training.checkpoint import Keeper

if TYPE_CHECKING:
    import torch

    from maskmill.adapt._neighbours import Neighbours


@dataclass(frozen=True)
class HeadTraining:
    """One training.

    Attributes:
        seed: of weights, order and draws. clusters: of the recipe; how many prototypes a method with prototypes learns.
        threads: CPU threads, results do not depend on them. keeper: where checkpoints go.
        neighbours: the images most like each image, for methods that ask for them.
    """

    seed: int
    device: torch.device
    clusters: int = 8
    threads: int = 1
    keeper: Keeper = field(default_factory=lambda: Keeper(stage="adapt"))
    neighbours: Neighbours | None = None

"""What a training is given to run with, and what its result does not depend on (but for the kind of device)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Resources:
    """The machine of one training.

    Attributes:
        threads: of the CPU. device: auto, cpu, cuda or cuda:0.
        checkpoint_steps: steps between two checkpoints; 0 writes one only when SIGTERM or SIGUSR1 comes; None leaves
            it to the stage.
        cache_mib: memory for images that are read once; None leaves it to the stage.
    """

    threads: int = 1
    device: str = "auto"
    checkpoint_steps: int | None = None
    cache_mib: int | None = None

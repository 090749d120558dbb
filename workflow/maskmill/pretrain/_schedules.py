"""Values that change over a training, as functions of the step alone."""

from __future__ import annotations

import math


def cosine(step: int, steps: int, start: float, end: float, warmup: int = 0) -> float:
    """From 0 linearly to `start` in `warmup` steps, then on half a cosine towards `end`, which step `steps` would have.

    It is the schedule of DINO, and of the papers that follow it.
    """
    if step < warmup:
        return start * step / warmup
    share = (step - warmup) / max(1, steps - warmup)
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2

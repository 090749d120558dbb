"""Teachers: moving averages of the weights that learn."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def ema(teacher: nn.Module, online: nn.Module, momentum: float) -> None:
    """One step of the moving average, tensor by tensor: teacher = momentum * teacher + (1 - momentum) * online."""
    targets = dict(teacher.named_parameters())
    for name, value in online.named_parameters():
        if name in targets:  # a teacher may lack what only a student needs
            targets[name].lerp_(value.detach().to(targets[name].dtype), 1 - momentum)

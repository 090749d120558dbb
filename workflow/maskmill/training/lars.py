"""LARS: stochastic gradient descent whose steps are proportional to the weights that they move.

You, Gitman and Ginsburg, "Large Batch Training of Convolutional Networks" (arXiv:1708.03888), section 4. Two published
programs differ in what they do with biases and norms, and both are wanted:

- `lars`, of MoCo v3 (`moco/optimizer.py`), Barlow Twins and SlotCon (`utils/lars.py`): the gradient with its weight
  decay is divided by its own norm; parameters of fewer than two dimensions are neither scaled nor decayed.
- `larc`, of apex (`apex/parallel/LARC.py` with `clip=False`), around plain SGD in SwAV and DeepCluster-v2: the norms of
  gradient and decay are added instead, and all parameters are scaled and decayed; one whose weights or gradient are
  zero, as a bias at the start, follows its bare gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch

EPSILON = 1e-8  # of apex, added to the norms of `larc`


class LARS(torch.optim.Optimizer):
    """SGD with momentum, whose gradient of a tensor is scaled by `trust` times the norm of the tensor over its own.

    Its state is one tensor `momentum_buffer` a parameter, of the parameter's shape.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = 0.001,
        form: Literal["lars", "larc"] = "lars",
    ) -> None:
        """Make the optimiser of parameters, or of groups, which may have rates, decays and other settings of their own.

        Args:
            lr: factor of the whole step. trust: the paper's trust coefficient.
            form: see the module; of a group as well.
        """
        super().__init__(
            params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust, "form": form}
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Move every parameter that has a gradient; gradients stay as they are."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                scale = larc_gradient if group["form"] == "larc" else lars_gradient
                moved = scale(parameter, parameter.grad, group["weight_decay"], group["trust"])
                state = self.state[parameter]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(parameter)
                state["momentum_buffer"].mul_(group["momentum"]).add_(moved)
                parameter.add_(state["momentum_buffer"], alpha=-group["lr"])
        return loss


def lars_gradient(weight: torch.Tensor, gradient: torch.Tensor, decay: float, trust: float) -> torch.Tensor:
    """The scaled gradient of a tensor as MoCo v3, Barlow Twins and SlotCon have it."""
    if weight.ndim < 2:
        return gradient
    moved = gradient.add(weight, alpha=decay)
    own, length = torch.linalg.vector_norm(weight), torch.linalg.vector_norm(moved)
    return moved * torch.where((own > 0) & (length > 0), trust * own / length, torch.ones_like(own))


def larc_gradient(weight: torch.Tensor, gradient: torch.Tensor, decay: float, trust: float) -> torch.Tensor:
    """The scaled gradient of a tensor as apex has it."""
    own, length = torch.linalg.vector_norm(weight), torch.linalg.vector_norm(gradient)
    scaled = gradient.add(weight, alpha=decay) * (trust * own / (length + own * decay + EPSILON))
    return torch.where((own > 0) & (length > 0), scaled, gradient)

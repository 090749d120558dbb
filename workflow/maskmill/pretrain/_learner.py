"""What a method trains: a network with its heads, teachers, queues and prototypes, and the loss of a step.

A step has four parts. `outputs` is the pass of one micro-batch, in one of several threads. `targets` sees what
`shared` has taken of the outputs of all micro-batches, in all processes, in one order. `loss` is the mean loss of one
micro-batch, whose gradients are added by its weight. `after` follows the optimiser. Nothing but `after` and `before`
changes the learner's state, and nothing draws from a global generator: so a step is the same in any number of threads
and processes, and a training that was stopped goes on to the same bits.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from torch import nn

from maskmill.backbones.learning import Learning
from maskmill.device import float32

if TYPE_CHECKING:
    from maskmill.pretrain._views import Photos, Views

Outputs = dict[str, torch.Tensor]
Loss = TypeVar("Loss", bound=Callable[..., Any])
FLAT = ("pos_embed", "cls_token", "reg_token", "mask_token")  # of a ViT: not decayed unless a paper does


@dataclass(frozen=True)
class Group:
    """Parameters that learn at one rate: `rate` times that of the section, and are drawn to zero or not."""

    parameters: Sequence[nn.Parameter]
    rate: float = 1.0
    decay: bool = True


class Learner(nn.Module):
    """A method at work; see the module. State that is no parameter belongs into buffers, so that checkpoints have it.

    Attributes:
        student: the network that learns. monitors: names of what `loss` reports beside the loss.
    """

    student: Learning
    monitors: Sequence[str] = ()

    def exported(self) -> Learning:
        """The network whose weights are the result."""
        return self.student

    def groups(self) -> list[Group]:
        """What learns; by default every parameter that requires a gradient, those of one dimension without decay."""
        return split(self)

    def outputs(self, views: Views, draws: torch.Generator, step: int) -> Outputs:
        """The pass of one micro-batch: students with gradients, teachers without."""
        raise NotImplementedError

    def shared(self, outputs: Outputs) -> Outputs:
        """What `targets` needs of a micro-batch, detached; the number of rows may differ between micro-batches."""
        return {}

    def targets(self, whole: Mapping[str, list[torch.Tensor]], step: int) -> Any:
        """What the losses of a step are computed with, from what was shared: one tensor for every micro-batch."""
        return None

    def loss(
        self, outputs: Outputs, targets: Any, place: int, step: int
    ) -> tuple[torch.Tensor, float, Mapping[str, torch.Tensor]]:
        """Mean loss of a micro-batch, its weight, and monitors {name: a number}, which are averaged.

        Args:
            place: of the micro-batch among those of the step.
        """
        raise NotImplementedError

    def before(self, step: int, photos: Photos) -> Sequence[nn.Parameter]:
        """What an epoch starts with, such as a clustering of all photos; the optimiser forgets what is returned."""
        return ()

    def idle(self, step: int) -> Sequence[nn.Parameter]:
        """Parameters that the optimiser leaves as they are at a step."""
        return ()

    def after(self, targets: Any, step: int) -> None:
        """What follows the weights: teachers, queues, centres."""


def in_float32(loss: Loss) -> Loss:
    """A learner's `loss` that computes in single precision under autocast too: near cosines are equal in bfloat16."""

    @functools.wraps(loss)
    def computed(self: Learner, outputs: Outputs, targets: Any, place: int, step: int) -> Any:
        with float32(next(iter(outputs.values())).device):
            return loss(self, outputs, targets, place, step)

    return cast("Loss", computed)


def split(module: nn.Module, rate: float = 1.0, names: Sequence[str] = FLAT) -> list[Group]:
    """The parameters of a module that learn, in two groups: matrices, and what is never decayed, as biases."""
    named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    flat = [p for name, p in named if p.ndim <= 1 or name.rsplit(".", 1)[-1] in names]
    chosen = {id(p) for p in flat}
    rest = [p for _, p in named if id(p) not in chosen]
    return [Group(each, rate, decay) for each, decay in ((rest, True), (flat, False)) if each]

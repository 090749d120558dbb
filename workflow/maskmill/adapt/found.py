"""FOUND: what is not background is object; a 1x1 convolution on frozen keys learns it for all images at once.

Siméoni, Sekkat, Puy, Vobecky, Zablocki and Pérez, Unsupervised object localization: observing the background to
discover objects (CVPR 2023). Labels, losses, weights and schedule are those of its code (`maskmill.adapt._objects`).
Items are the stored keys of whole images on their own grids. The code squeezes every photo to 224 x 224 pixels, after
it was made smaller or larger, and blurs half of them; here the first labels of an image are the same in every step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from maskmill.adapt import Traits
from maskmill.adapt._object_params import WEIGHT_DECAY, ObjectParams, rate

if TYPE_CHECKING:
    import numpy as np
    import torch

    from maskmill.adapt._beside import TokensAndMore
    from maskmill.adapt._training import HeadTraining

TRAITS = Traits(
    neighbours=False, per_image=True, crops=False, trains_backbone=False, beside=("cls_query", "photo")
)  # fmt: skip


class Params(ObjectParams):
    """Settings of the background, the losses and the training; defaults as published for DUTS-TR."""


def code_length(params: Params, clusters: int) -> int:
    """One mask: how likely a token is part of an object, 0 where it is rather not."""
    return 1


def build(depth: int, params: Params, clusters: int) -> torch.nn.Module:
    """The head: `codes` [n, d, h, w] -> [n, 1, h, w]."""
    from maskmill.adapt._objects import ObjectHead

    return ObjectHead(depth)


def fit(images: TokensAndMore, params: Params, training: HeadTraining) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Train; tensors `head.*`, and diagnostics: loss and monitors.

    Raises:
        NumericsError: a loss that is not finite. InputError: a photo has changed.
    """
    import numpy as np

    from maskmill.adapt import _objects, _trainer
    from maskmill.adapt._data import order

    head = _trainer.seeded(training, lambda: build(images.depth, params, training.clusters))
    solver = _objects.Solver(images.photo, params.pixels)

    def first(i: int) -> tuple[np.ndarray, ...]:
        """What is learnt from at first: the complement of the background, solved [h, w]."""
        return (solver.of(~_objects.background(images[i], *images.cls(i), params.threshold), i)[0],)

    labels = _objects.Held(first, 1 << 28)

    def batch(step: int) -> list[_trainer.Micro]:
        """An image each, on its own grid; its label while it is learnt from."""
        places = order(step, params.batch_size, len(images), training.seed)
        x = [images[i].transpose(2, 0, 1)[None] for i in places]
        if step >= params.background_steps:
            return [(x[n], np.array([i])) for n, i in enumerate(places)]
        return [(x[n], np.array([i]), labels(i)[0][None, None]) for n, i in enumerate(places)]

    def loss(micro: tuple[torch.Tensor, ...], draws: torch.Generator, step: int) -> Any:
        logits = head(micro[0])
        label = micro[2] if len(micro) > 2 else None
        total, parts = _objects.losses(logits, micro[1], label, solver, params)
        return total, logits.numel(), parts

    task = _trainer.HeadTask(
        head, [(list(head.parameters()), params.learning_rate)], batch, loss, params.steps, params.batch_size,
        monitors=("solved", "background", "own", "object", "taken"), rate=lambda step: rate(step, params),
        weight_decay=WEIGHT_DECAY, optimiser="adamw",
    )  # fmt: skip
    return _trainer.train(task, training)

"""PEEKABOO: FOUND's linear head, learnt on whole photos and on photos of which strokes hide a part.

Zunair and Ben Hamza, PEEKABOO: hiding parts of an image for unsupervised object localization (ACCV 2024). The head
learns from its own masks of whole photos, and from its own masks of the same photos with strokes over them; both are
fitted to the whole photo by the bilateral solver. Losses, weights and schedule are those of its code, but for the
start: there nothing says which side of the first, random masks is the object, so that the outcome hangs on the seed.
`background_steps` (FOUND's) says it; 0 is as published. The published consistency compares masks that are binarised
before, through which no gradient comes; `consistency` compares probabilities, and is 0 so that it teaches nothing
either.

Strokes are drawn here, where the code reads a set of scribbles. Photos are squeezed, but neither blurred nor made
smaller first, so that the keys of a whole photo are computed once. A trained head works on stored keys.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from maskmill.adapt import Traits
from maskmill.adapt._object_params import WEIGHT_DECAY, rate
from maskmill.adapt.peekaboo.params import Params as Params

if TYPE_CHECKING:
    import numpy as np
    import torch

    from maskmill.adapt._photos import FrozenPhotos
    from maskmill.adapt._training import HeadTraining

TRAITS = Traits(
    neighbours=False, per_image=True, crops=False, trains_backbone=False, photos=True, facets=("key",)
)  # fmt: skip


def code_length(params: Params, clusters: int) -> int:
    """One mask: how likely a token is part of an object, 0 where it is rather not."""
    return 1


def build(depth: int, params: Params, clusters: int) -> torch.nn.Module:
    """The head: `codes` [n, d, h, w] -> [n, 1, h, w]."""
    from maskmill.adapt._objects import ObjectHead

    return ObjectHead(depth)


def fit(images: FrozenPhotos, params: Params, training: HeadTraining) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Train; tensors `head.*`, and diagnostics: loss and monitors.

    Raises:
        ConfigError: a backbone without a cls token and plain attention. NumericsError: a loss that is not finite.
    """
    from maskmill.adapt import _objects, _trainer
    from maskmill.adapt.peekaboo.hiding import Batches
    from maskmill.images.decode import resize

    head = _trainer.seeded(training, lambda: build(images.depth, params, training.clusters))
    solver = _objects.Solver(lambda i, size: resize(images[i], size), params.pixels)
    batches = Batches(images, solver, params, training)

    def loss(micro: tuple[torch.Tensor, ...], draws: torch.Generator, step: int) -> Any:
        """Of whole and masked keys, positions, and the first labels while they are learnt from."""
        whole, masked, places, *first = micro
        total, parts = losses(head(whole), head(masked), places, first[0] if first else None, solver, params)
        return total, len(whole), parts

    task = _trainer.HeadTask(
        head, [(list(head.parameters()), params.learning_rate)], batches, loss, params.steps, params.batch_size,
        monitors=("solved", "background", "own", "masked", "apart", "object", "taken"),
        rate=lambda step: rate(step, params), weight_decay=WEIGHT_DECAY, optimiser="adamw",
    )  # fmt: skip
    return _trainer.train(task, training)


def losses(
    logits: torch.Tensor,
    hidden: torch.Tensor,
    places: torch.Tensor,
    first: torch.Tensor | None,
    solver: Any,
    params: Params,
) -> tuple[torch.Tensor, dict[str, Any]]:
    """FOUND's loss of whole photos, that of the same photos masked, and how far apart both are; and monitors.

    Args:
        logits, hidden: of whole and of masked photos, [n, 1, h, w]. places, first, solver: see `_objects.losses`.
    """
    from maskmill.adapt import _objects

    total, parts = _objects.losses(logits, places, first, solver, params)
    smooth, _ = solver(hidden.detach() > 0, places)
    parts["masked"] = _objects.entropy(hidden, smooth)
    parts["apart"] = (logits.sigmoid() - hidden.sigmoid()).square().mean()
    return total + params.weight_masked * parts["masked"] + params.consistency * parts["apart"], parts

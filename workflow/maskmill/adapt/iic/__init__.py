"""IIC: maximises the mutual information of the classes of a token and of the same place in another view.

Ji, Henriques and Vedaldi, Invariant information clustering for unsupervised image classification and segmentation (ICCV
2019). Two views of an image, one of them laid back by the known inverse of its geometry; the mutual information of
their class probabilities is raised at every shift of a few cells. A main head of the recipe's clusters and a finer one
learn by turns, an epoch each, the finer one first.

What differs, where tokens are frozen and pixels are not seen (`unfreeze: true` trains the backbone, on photos): the
trunk is a small head on stored tokens instead of a network trained on colours and Sobel edges. Hidden, scaled and
shifted channels stand in for the photometric jitter (see `_views`). Shifts are counted in tokens: the paper's 10 of 128
pixels are 2 of 28. A head that treats every token alone knows its neighbours only through the shifts. Codes are the
main head's class probabilities, prototypes the unit vectors, so that the nearest prototype is the most probable class.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from maskmill.adapt import Traits
from maskmill.adapt._views import ViewParams

if TYPE_CHECKING:
    import torch

    from maskmill.adapt._data import Images
    from maskmill.adapt._encoder import Encoder
    from maskmill.adapt._training import HeadTraining
    from maskmill.adapt.iic.information import ClassHead

TRAITS = Traits(neighbours=False, per_image=False, crops=False, trains_backbone=True)


class Params(ViewParams):
    """Settings. Defaults: COCO-Stuff, but for the shift, which is in tokens."""

    scale: float = Field(1.0, gt=0, le=1, description="side of a view as a share of the stored grid's")
    over_factor: int = Field(3, ge=1, le=100, description="classes of the finer head for one of the main head")
    shift: int = Field(2, ge=0, le=32, description="largest shift between the views, in tokens of a view")
    lam: float = Field(1.0, ge=0, description="weight of the main head's marginal entropies (1.5 for three classes)")
    lam_over: float = Field(1.0, ge=0, description="the same of the finer head")
    batch_size: int = Field(120, ge=1, description="images a step")


def code_length(params: Params, clusters: int) -> int:
    """Length of a code: the probability of every class."""
    return clusters


def build(depth: int, params: Params, clusters: int, encoder: Encoder | None = None) -> torch.nn.Module:
    """The head: `codes` [n, d, h, w] -> class probabilities [n, k, h, w], and `prototypes`."""
    from maskmill.adapt._selflabel import small_head
    from maskmill.adapt.iic.information import ClassHead

    return ClassHead(small_head(depth, params, encoder), params.dimensions, clusters, params.over_factor * clusters)


def fit(images: Images, params: Params, training: HeadTraining) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Train; tensors `head.*`, and diagnostics: loss, monitors.

    Raises:
        NumericsError: a loss that is not finite.
    """
    from maskmill.adapt import _trainer, _views
    from maskmill.adapt._modules import usage
    from maskmill.adapt._selflabel import rates
    from maskmill.adapt.iic import information

    head = _trainer.seeded(training, lambda: build(images.depth, params, training.clusters, images.encoder))
    length = _views.span(len(images), params)
    turn = min(length, max(1, params.steps // 2))  # however short the training, both heads learn

    def loss(batch: tuple[torch.Tensor, ...], draws: torch.Generator, step: int) -> Any:
        over = step // turn % 2 == 0
        one, two, seen = views(head, batch, params.scale, over, images.multiple)
        found = information.loss(one, two, params.shift, params.lam_over if over else params.lam)
        kept = {"over": found} if over else {"main": found} | usage(seen.detach())
        return found, len(batch[0]), kept

    task = _trainer.HeadTask(
        head, rates(head.trunk, [*head.main.parameters(), *head.over.parameters()], params),
        lambda step: [_views.batch(images, params, training, step)], loss, params.steps, params.batch_size,
        monitors=("main", "over", "entropy", "used", "largest"),
    )  # fmt: skip
    return _trainer.train(task, training)


def views(
    head: ClassHead, batch: tuple[torch.Tensor, ...], scale: float, over: bool, multiple: int = 1
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Probabilities [n, k, h, w] of the whole and of the crop laid back, 0 outside the crop; those of the whole."""
    from maskmill.adapt import _views, _warp
    from maskmill.device import float32

    x, boxes, changes = batch
    size = _views.size(x, scale, multiple)
    with float32(x.device):
        one = _warp.change(_warp.resize(x, size), changes[:, 0])
        two = _warp.change(_warp.crop(x, boxes, size), changes[:, 1])
    whole, part = head.probabilities(one, over), head.probabilities(two, over)
    with float32(x.device):
        back, inside = _warp.lay_back(part, boxes, (whole.shape[2], whole.shape[3]))
    return whole * inside, back * inside, whole

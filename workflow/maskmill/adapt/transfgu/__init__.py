"""TransFGU: classes of windows, found again in photos from the top down, train a decoder on a frozen ViT.

Yin, Wang, Wang, Xu, Zhang, Li and Jin, TransFGU: a top-down approach to fine-grained unsupervised semantic segmentation
(ECCV 2022). Cls tokens of windows that show foreground are clustered into classes (`windows`). Per photo and class the
gradient of the cls token's attention says which patches would make the photo more like the class: pseudo masks
(`activation`). A decoder learns them from crops of the photos (`views`, `losses`, `decoder`); later a teacher's
prediction is averaged with them, and the student starts again from its first weights whenever it becomes the teacher.

The encoder stays as it is, so a trained head works on stored tokens; only its training sees photos. Class 0 is the
background, unless `stuff` asks for classes of background windows instead. What differs from the published code is in
docs/fidelity.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from maskmill.adapt import Traits
from maskmill.adapt.transfgu.params import Params as Params
from maskmill.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    import torch

    from maskmill.adapt._photos import FrozenPhotos
    from maskmill.adapt._training import HeadTraining

TRAITS = Traits(neighbours=False, per_image=False, crops=False, trains_backbone=False, photos=True)


def code_length(params: Params, clusters: int) -> int:
    """Length of a code: a logit of every class."""
    return clusters


def build(depth: int, params: Params, clusters: int) -> torch.nn.Module:
    """The head: `codes` [n, d, h, w] -> logits [n, clusters, h, w], and `prototypes`, their unit vectors."""
    from maskmill.adapt.transfgu.decoder import Decoder

    if params.width % params.heads:
        raise ConfigError(f"adapt.heads: {params.heads} does not divide adapt.width: {params.width}; change one")
    return Decoder(depth, clusters, params.width, params.heads, params.blocks, params.dropout)


def fit(images: FrozenPhotos, params: Params, training: HeadTraining) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Train; tensors `head.*`, and diagnostics: loss, monitors, and `windows`, the number of each kind.

    Raises:
        ConfigError: a backbone without a cls token and plain attention, or too few classes.
        NumericsError: fewer windows than classes, or a loss that is not finite.
    """
    from maskmill.adapt import _trainer
    from maskmill.adapt.transfgu.training import train

    head = _trainer.seeded(training, lambda: build(images.depth, params, training.clusters))
    return train(images, params, training, head)

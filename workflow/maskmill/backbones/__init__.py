"""Networks that turn photos into tokens: timm models, the embedded ones, colours, SIFT, and their weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    import torch

    from maskmill.recipe.feature_set import FeatureSet


class Dense(Protocol):
    """A backbone at work: photos -> tokens.

    Attributes:
        set: the feature set. device: where it computes. digest: sha256 of the weights, for provenance.
        stride: pixels a token. multiple: sides of images must be multiples of it. depth: length of a token.
        mean, std: [1, 3 or N, 1, 1] of the input normalisation, for values in 0..1.
        heads: attention heads behind the third of `outputs`; None where it gives no query.
    """

    set: FeatureSet
    device: torch.device
    digest: str
    stride: int
    multiple: int
    depth: int
    mean: torch.Tensor
    std: torch.Tensor
    heads: int | None

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """uint8 RGB [b, H, W, 3], or all N channels, -> tokens [b, h, w, d] and cls [b, d], float32."""

    def outputs(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """The two of `forward`, and the query [b, d] of the cls token where there is one."""


def mean_colour(backbone: Dense) -> np.ndarray:
    """The network's mean input as uint8 [3], or [N]; normalised it is zero to within half a grey level."""
    import numpy as np

    return np.asarray(np.round(backbone.mean.cpu().numpy().ravel() * 255).clip(0, 255).astype(np.uint8))

"""What of a token says where it lies is removed: the subspace of the tokens of an image without any content.

INSID3: in-context segmentation with DINOv3 (visinf/INSID3, `_build_positional_basis` and `_debias_features`): the
tokens of a black image differ by their places alone. Their principal directions span the positional subspace; tokens of
length 1 are projected on what is orthogonal to it, and get length 1 again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from maskmill.backbones._derived import Derived
from maskmill.errors import ConfigError
from maskmill.images.decode import target_size

if TYPE_CHECKING:
    import torch

    from maskmill.backbones import Dense
    from maskmill.recipe.feature_set import FeatureSet

NOTHING = 1e-5  # share of the largest singular value, or of a token's length, below which a direction is rounding


def subspace(tokens: torch.Tensor, components: int) -> torch.Tensor:
    """Principal directions [d, c] float32 of tokens [n, d] that differ by their places alone, c <= components.

    Each token is taken with length 1, and their mean is not of the subspace. Directions along which they do not differ,
    but for rounding, are left out: where all tokens are the same there is none.
    """
    import torch
    from torch.nn.functional import normalize

    from maskmill.numerics.blocks import one_thread

    with one_thread():
        rows = normalize(tokens.cpu().double(), dim=1)
        rows = rows - rows.mean(0)
        _, values, directions = torch.linalg.svd(rows, full_matrices=False)
    floor = NOTHING * max(float(values[0]), len(rows) ** 0.5 * NOTHING) if len(values) else 0.0
    found: torch.Tensor = directions[: min(components, int((values > floor).sum()))].T.float().contiguous()
    return found


class Debiased(Derived):
    """Tokens of length 1 without their positional part; cls is as it was.

    The subspace is that of a square black image as large as the set's images are, once for all of them: tokens of
    images of different grids stay comparable.

    Raises:
        ConfigError: no direction would be left.
    """

    def __init__(self, feature_set: FeatureSet, source: Dense) -> None:
        super().__init__(feature_set, source)
        assert feature_set.debias is not None
        components = feature_set.debias.components
        if components >= self.depth:
            raise ConfigError(
                f"features.<name>.debias.components: {components}, but a token of {feature_set.backbone} has "
                f"{self.depth} numbers, so nothing would be left; use fewer"
            )
        import torch

        side = next(side for side in feature_set.size.model_dump().values() if side is not None)
        shape = target_size(side, side, feature_set.size, source.multiple)
        black = torch.zeros(1, *shape, source.mean.shape[1], dtype=torch.uint8)
        tokens = source.forward(black)[0].reshape(-1, self.depth)
        self.basis = subspace(tokens, components).to(source.device)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Dense`."""
        from torch.nn.functional import normalize

        tokens, cls = self.source.forward(images)
        tokens = normalize(tokens, dim=-1)
        return normalize(tokens - (tokens @ self.basis) @ self.basis.T, dim=-1), cls

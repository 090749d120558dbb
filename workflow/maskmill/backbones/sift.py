"""The backbone `sift`: one SIFT descriptor around every cell of a regular grid. A feature set without a network.

Descriptors are kornia's (`kornia.feature.SIFTDescriptor`): eight directions in four by four bins, a Gaussian window,
entries above 0.2 clipped (Lowe, IJCV 2004, section 6). The grid is that of Lazebnik, Schmid and Ponce (CVPR 2006,
section 4): patches of 16 pixels, 8 pixels apart, upright and of one scale. The square root is RootSIFT (Arandjelovic
and Zisserman, CVPR 2012): Euclidean distances and cosines of its rows are Hellinger's of the histograms.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from maskmill.backbones._channels import RGB
from maskmill.recipe import backbones
from maskmill.recipe.feature_set import FeatureSet, SiftPatch

if TYPE_CHECKING:
    import torch

SPEC = backbones.of("sift")
PIXELS = 1 << 17  # of the patches that are described at once: what a core has in its cache is 1.6 times as fast as all


class Sift:
    """Tokens of 128 numbers, of unit length where the patch is not flat; a `maskmill.backbones.Dense`.

    Attributes:
        set, device, digest: as given. stride, multiple: pixels a cell. depth: 128. heads: None, as there is no
            attention.
        mean, std: of an input normalisation that is not done. SIFT looks at differences alone, so the grey of the mean
            is no more than what pixels without data are filled with; in the middle it makes the weakest edges.
    """

    heads: int | None = None

    def __init__(self, feature_set: FeatureSet, device: torch.device, digest: str = "", channels: int = RGB) -> None:
        import torch
        from kornia.feature import SIFTDescriptor

        shape = (1, channels, 1, 1)
        self.mean, self.std = torch.full(shape, 0.5, device=device), torch.ones(shape, device=device)
        self.depth = int(SPEC.depth or 0)
        self.set, self.device, self.digest = feature_set, device, digest
        self.stride = self.multiple = feature_set.stride or int(SPEC.stride or 1)
        chosen = feature_set.sift or SiftPatch()
        self.patch = chosen.patch
        self._describe = SIFTDescriptor(self.patch, rootsift=chosen.root).eval().requires_grad_(False).to(device)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """uint8 RGB [b, H, W, 3], or all N channels, -> tokens [b, h, w, 128] and their mean [b, 128], float32.

        The sides are whole cells. A patch lies around the centre of its cell; beyond the border of the image the last
        pixel is repeated. The order of the numbers is kornia's: direction, row, column.
        """
        import torch

        with torch.inference_mode():
            tokens = torch.stack([self._tokens(grey(image)) for image in images.to(self.device)])
        return tokens, tokens.mean((1, 2))

    def outputs(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        """The same, and no query of a cls token."""
        return *self.forward(images), None

    def _tokens(self, image: torch.Tensor) -> torch.Tensor:
        """Grey [H, W] -> [h, w, 128], rows of cells at a time.

        The rows are the same whatever else is in the batch, so the numbers are too.
        """
        import torch
        from torch.nn.functional import pad

        p, s = self.patch, self.stride
        before, after = (p - s) // 2, p - s - (p - s) // 2  # negative where patches leave gaps
        edges = (before, after, before, after)
        image = pad(image[None, None], edges, mode="replicate" if p > s else "constant")
        patches = image[0, 0].unfold(0, p, s).unfold(1, p, s)  # [h, w, p, p], a view
        h, w = patches.shape[:2]
        # TF32, the default of convolutions on a GPU, has ten bits.
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            parts = [self._describe(rows.reshape(-1, 1, p, p)) for rows in patches.split(max(1, PIXELS // (w * p * p)))]
        return torch.cat(parts).reshape(h, w, self.depth)


def grey(image: torch.Tensor) -> torch.Tensor:
    """uint8 [H, W, N] -> float32 [H, W] in 0..1: kornia's grey of RGB, of other pictures the mean of the channels."""
    from kornia.color import rgb_to_grayscale

    planes = image.permute(2, 0, 1).float() / 255  # [N, H, W]
    return rgb_to_grayscale(planes)[0] if len(planes) == RGB else planes.mean(0)

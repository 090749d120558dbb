"""What the heads that find objects in one pass share: background seeds, solved masks, a linear decoder, its settings.

Siméoni, Sekkat, Puy, Vobecky, Zablocki and Pérez, Unsupervised object localization: observing the background to
discover objects (FOUND, CVPR 2023). The background is found first: the patch that the cls token attends to least, and
all that look like it. A 1x1 convolution on frozen keys learns the rest of the image, and then from its own masks, which
a bilateral solver fits to the photo.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, interpolate

from maskmill.adapt._modules import full
from maskmill.adapt._object_params import ObjectParams
from maskmill.backbones.attention import cls_logits
from maskmill.device import float32
from maskmill.errors import NumericsError
from maskmill.images.interpolate import resize_maps
from maskmill.refine import bilateral

EPSILON = 1e-10  # added to a head's share of attended patches, as published
SOLVER = bilateral.Params(side=0)  # cells of 16 pixels, 16 levels of luma, 8 of chroma: as published
AGREEMENT = 0.5  # IoU of a mask and its solution below which the mask is kept as it is


class ObjectHead(nn.Module):
    """A 1x1 convolution: tokens [n, d, h, w] -> logits [n, 1, h, w] of being part of an object."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.decoder = nn.Conv2d(depth, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits, float32."""
        with float32(x.device):
            return full(self.decoder(full(x)))

    def codes(self, x: torch.Tensor) -> torch.Tensor:
        """Probability of tokens that are rather object than not, 0 elsewhere [n, 1, h, w]."""
        logits = self(x)
        return torch.where(logits > 0, logits.sigmoid(), 0.0)


def attention(keys: np.ndarray, query: np.ndarray, cls: np.ndarray) -> np.ndarray:
    """Attention of the cls token to the patches, float64 [heads, n]: a head's patches and the cls token add up to one.

    Args:
        keys: [n, heads * d_head]. query, cls: query [heads, d_head] and key [heads * d_head] of the cls token.
    """
    logits = cls_logits(np.concatenate([cls[None], keys]), query)
    weights = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray((weights / weights.sum(1, keepdims=True))[:, 1:])


def background(keys: np.ndarray, query: np.ndarray, cls: np.ndarray, threshold: float) -> np.ndarray:
    """FOUND's background, bool [h, w], of keys [h, w, heads * d_head]; section 3.1.

    A head counts by how few patches it attends to more than the image's mean over all heads and patches. The seed is
    the patch with the least attention so weighted; background is what has a cosine with it above the threshold.

    Raises:
        NumericsError: a key or the query is NaN or infinite.
    """
    h, w, d = keys.shape
    flat = keys.reshape(h * w, d).astype(np.float64)
    seen = attention(flat, query, cls.astype(np.float64))
    if not np.isfinite(seen).all():
        raise NumericsError("adapt: an image has keys that are NaN or infinite; delete its feature store and run again")
    shares = (seen > seen.mean()).mean(1) + EPSILON
    beta = np.log(shares.sum() / shares)  # [heads]
    weighted = (flat.reshape(h * w, len(beta), -1) * beta[:, None]).reshape(h * w, d)
    weighted /= np.maximum(np.linalg.norm(weighted, axis=1, keepdims=True), 1e-12)
    seed = int(np.argmin(beta @ seen))
    return np.asarray((weighted @ weighted[seed] > threshold).reshape(h, w))


def solved(mask: np.ndarray, photo: np.ndarray) -> tuple[np.ndarray, bool]:
    """A mask bool [h, w] fitted to its photo uint8 [H, W, 3] by the bilateral solver, and whether it was.

    Holes are filled, and the largest of the parts and the background is taken for background, as published. A solution
    that has little in common with the mask (an IoU of 0.5 or less) is not taken. A token is in the object where any
    pixel at its middle is.
    """
    from scipy import ndimage

    wide = resize_maps(mask[None].astype(np.float32), photo.shape[:2])
    smooth = ndimage.binary_fill_holes(bilateral.refine(wide, photo, SOLVER)[0] > 0.5)
    parts, _ = ndimage.label(smooth)
    found = parts != np.bincount(parts.ravel()).argmax()
    given = wide[0] > 0.5
    union = np.count_nonzero(found | given)
    if union == 0 or np.count_nonzero(found & given) / union <= AGREEMENT:
        return mask, False
    small = interpolate(torch.from_numpy(found[None, None].astype(np.float32)), mask.shape, mode="bilinear")
    return small[0, 0].numpy() > 0, True


def entropy(logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean binary cross-entropy of logits [n, 1, h, w] with a mask of the same shape."""
    return binary_cross_entropy_with_logits(logits, mask.to(logits.dtype))


class Solver:
    """`solved` for masks [n, 1, h, w] of images by position, as tensors on their device.

    Args:
        photo: position, size (H, W) -> the photo squeezed to it, uint8 [H, W, 3]. pixels: of it, a token's side.
    """

    def __init__(self, photo: Callable[[int, tuple[int, int]], np.ndarray], pixels: int) -> None:
        self.photo, self.pixels = photo, pixels

    def of(self, mask: np.ndarray, i: int) -> tuple[np.ndarray, bool]:
        """A mask bool [h, w] of image i, and whether the solver's is taken."""
        return solved(mask, self.photo(i, (mask.shape[0] * self.pixels, mask.shape[1] * self.pixels)))

    def __call__(self, masks: torch.Tensor, places: torch.Tensor) -> tuple[torch.Tensor, float]:
        """The masks fitted to the photos of `places` [n], and the share that was."""
        found = [self.of(mask, int(i)) for mask, i in zip(masks[:, 0].cpu().numpy(), places.tolist(), strict=True)]
        made = torch.from_numpy(np.stack([mask for mask, _ in found])[:, None]).to(masks.device)
        return made, float(np.mean([taken for _, taken in found]))


class Held:
    """What is made of images once, and held while there is room; several threads may ask.

    Args:
        make: position -> arrays. room: bytes.
    """

    def __init__(self, make: Callable[[int], tuple[np.ndarray, ...]], room: int) -> None:
        self.make, self.room = make, room
        self._held: dict[int, tuple[np.ndarray, ...]] = {}
        self._lock = threading.Lock()

    def __call__(self, i: int) -> tuple[np.ndarray, ...]:
        """The arrays of image i."""
        if i in self._held:
            return self._held[i]
        made = self.make(i)
        size = sum(array.nbytes for array in made)
        with self._lock:
            if self.room >= size and i not in self._held:
                self.room -= size
                self._held[i] = made
        return made


def losses(
    logits: torch.Tensor, places: torch.Tensor, first: torch.Tensor | None, solver: Solver, params: ObjectParams
) -> tuple[torch.Tensor, dict[str, Any]]:
    """FOUND's loss of logits [n, 1, h, w] of whole images, and monitors.

    Args:
        places: positions of the images [n]. first: the complement of their background, solved, [n, 1, h, w]; None: the
            background is learnt from no longer, and the head's own masks take its place.
    """
    own = logits.detach() > 0
    smooth, taken = solver(own, places)
    parts: dict[str, Any] = {"solved": entropy(logits, smooth)}
    total = params.weight_solved * parts["solved"]
    if first is not None:
        parts["background"] = entropy(logits, first)
        total = total + parts["background"]
    else:
        parts["own"] = entropy(logits, own)
        total = total + params.weight_own * parts["own"]
    return total, parts | {"object": own.double().mean(), "taken": taken}

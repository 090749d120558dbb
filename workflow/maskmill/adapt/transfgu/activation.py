"""Pseudo masks from the top down: where the cls token would have to look to become more like a class.

TransFGU, section 3.2. They are computed from a photo when they are first needed; those that fit are held in memory, so
that memory is bounded and nothing is written beside the head.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np
import torch

from maskmill.backbones.cls_block import ClsBlock
from maskmill.numerics.blocks import one_thread, ordered
from maskmill.progress import track

if TYPE_CHECKING:
    from maskmill.adapt._photos import FrozenPhotos

# The published masks were made in batches of 8, and the loss is a mean over the batch: that divides the gradient
# beside the attention, to which it is added.
PUBLISHED_BATCH = 8


def activation(attention: torch.Tensor, gradients: torch.Tensor, mass: float) -> torch.Tensor:
    """Maps of k classes [n, k, t] from the cls token's attention [n, heads, t] and the losses' gradients [n, k, t].

    The attention, 1 at its largest, plus what more attention would gain, of which the largest values are kept that hold
    a share `mass` of the sum; 0 where more attention would take the cls token away from the class.
    """
    seen = attention.mean(1)
    seen = (seen / seen.amax(1, keepdim=True))[:, None]
    gain = (-gradients).clamp_min(0)
    return torch.where(gradients > 0, 0.0, seen + torch.where(largest(gain, mass), gain, 0.0))


def largest(gain: torch.Tensor, mass: float) -> torch.Tensor:
    """Which entries of rows [..., t] >= 0 are the largest ones that hold a share `mass` of the row's sum."""
    values, places = gain.sort(stable=True, dim=-1)
    values = values / values.sum(-1, keepdim=True).clamp_min(1e-30)
    kept = (values.cpu().cumsum(-1) > 1 - mass).to(values.device)  # sums on CUDA differ between runs
    return torch.zeros_like(kept).scatter(-1, places, kept)


class PseudoMasks:
    """Pseudo masks [k, h, w] float32 of the photos, by position.

    Args:
        centroids: of the classes [k, d]. mass: see `activation`. room: bytes that may be held.
    """

    def __init__(self, images: FrozenPhotos, centroids: np.ndarray, mass: float, room: int) -> None:
        self.images, self.mass, self.room = images, mass, room
        self.block = ClsBlock(images.backbone, images.size, images.key)
        self.device = images.backbone.device
        self.centroids = torch.from_numpy(centroids).to(self.device)
        self._held: dict[int, np.ndarray] = {}
        self._lock = threading.Lock()

    def __getitem__(self, i: int) -> np.ndarray:
        if i in self._held:
            return self._held[i]
        masks = self.compute(i)
        with self._lock:
            if self.room >= masks.nbytes and i not in self._held:
                self.room -= masks.nbytes
                self._held[i] = masks
        return masks

    def compute(self, i: int) -> np.ndarray:
        """The masks of photo i."""
        photo = torch.from_numpy(self.images[i]).to(self.device).permute(2, 0, 1)[None].float()
        attention, gradients = self.block.gradients(self.block.start(photo), self.centroids)
        found = activation(attention, gradients / PUBLISHED_BATCH, self.mass)[0]
        return found.unflatten(1, self.block.grid).cpu().numpy()

    def fill(self, threads: int) -> None:
        """Compute the masks that can be held, in threads, before the training asks for them one by one."""
        h, w = self.block.grid
        count = min(len(self.images), self.room // (4 * len(self.centroids) * h * w))
        workers = threads if self.device.type == "cpu" else 1
        with one_thread():
            for _ in track(ordered(self.__getitem__, range(count), workers, each=1), count, "adapt masks"):
                pass

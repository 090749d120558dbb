"""Images of one grid are cut together on a GPU, by methods that are `batched` (see `maskmill.cut.Traits`)."""

from __future__ import annotations

from typing import Any

import numpy as np

from maskmill.cut import BatchedMethod
from maskmill.errors import DeviceError
from maskmill.progress import track
from maskmill.recipe.base import Model
from maskmill.store.ragged import Ragged

GRAPHS_BYTES = 1 << 30  # memory of the graphs of a batch; MaskCut copies those of the images that go on
MOST = 64  # images a batch


def cut_together(
    method: BatchedMethod, own: Model, store: Ragged, seed: int, device: str
) -> dict[int, tuple[np.ndarray, dict[str, Any]]]:
    """`cut` of every image of a feature store that is all valid, by its place. Images of one grid share a batch.

    Raises:
        DeviceError: out of GPU memory. NumericsError: an image with NaN or infinite tokens.
    """
    grids: dict[tuple[int, int], list[int]] = {}
    for i, (h, w) in enumerate(store.grid.tolist()):
        if store.valid(i) is not None:
            continue
        grids.setdefault((h, w), []).append(i)
    batches = []
    for (h, w), images in grids.items():
        size = max(1, min(MOST, GRAPHS_BYTES // max(1, 4 * (h * w) ** 2)))
        batches += [images[first : first + size] for first in range(0, len(images), size)]
    found: dict[int, tuple[np.ndarray, dict[str, Any]]] = {}
    for images in track(batches, len(batches), "cut, batches of images"):
        tokens = np.stack([store[i].astype(np.float32) for i in images])
        found.update(zip(images, _fit(method, tokens, own, seed, [store.ids[i] for i in images], device), strict=True))
    return found


def _fit(
    method: BatchedMethod, tokens: np.ndarray, own: Model, seed: int, ids: list[str], device: str
) -> list[tuple[np.ndarray, dict[str, Any]]]:
    """A batch, in halves where the device's memory is too small for it: masks do not depend on the batch."""
    import torch

    try:
        return list(method.cut_batch(tokens, own, seed, ids, device))
    except torch.OutOfMemoryError as error:
        if len(ids) == 1:
            h, w = tokens.shape[1:3]
            raise DeviceError(
                f"{ids[0]}: out of GPU memory with {h}x{w} tokens; use --device cpu (MASKMILL_DEVICE=cpu) or smaller "
                "images (features.<name>.size)"
            ) from error
    torch.cuda.empty_cache()
    half = len(ids) // 2
    return _fit(method, tokens[:half], own, seed, ids[:half], device) + _fit(
        method, tokens[half:], own, seed, ids[half:], device
    )

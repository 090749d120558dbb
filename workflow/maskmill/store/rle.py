"""COCO run-length codes of a whole mask at once, or of layers that may overlap."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np


def encode_all(mask: np.ndarray) -> Iterator[tuple[int, dict[str, Any]]]:
    """(value, compressed RLE) of every value of mask [H, W], ascending.

    The runs of all values are found in one pass over the pixels; encoding value by value would take one pass each.
    """
    from pycocotools import mask as codec

    height, width = mask.shape
    flat = mask.ravel(order="F")  # COCO counts down the columns
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    ends = np.append(starts[1:], flat.size)
    values = flat[starts]
    order = np.argsort(values, kind="stable")
    present, first = np.unique(values[order], return_index=True)
    for value, mine in zip(present, np.split(order, first[1:]), strict=True):
        edges = np.stack([starts[mine], ends[mine]], axis=1).ravel()  # runs of others and of this value in turn
        counts = np.diff(edges, prepend=0)
        if edges[-1] < flat.size:
            counts = np.append(counts, flat.size - edges[-1])
        yield int(value), codec.frPyObjects({"size": [height, width], "counts": counts.tolist()}, height, width)


def encode_layers(masks: np.ndarray) -> Iterator[dict[str, Any] | None]:
    """Compressed RLE of each of masks bool [n, H, W], in their order; None for an empty one."""
    from pycocotools import mask as codec

    for mask in masks:
        yield codec.encode(np.asfortranarray(mask, np.uint8)) if mask.any() else None

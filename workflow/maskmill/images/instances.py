"""Instances of an image: binary masks that may overlap, each with a class and a score; and the store of a shard.

Layout of the store (a `Ragged` of kind "instances"): the rows of an image are its masks one below the other, eight
cells of a row packed into a byte: [n * h, ceil(w / 8)]. The per-image field `size` is (h, w); the store's attribute
`found` lists (class, score) of every instance of every image. Overlapping masks are kept as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from maskmill.errors import StoreError
from maskmill.store.provenance import Provenance
from maskmill.store.ragged import Ragged, RaggedWriter

VOID = 0  # class of a mask that says: what lies here is not known
SIGMA = 2.0  # of matrix NMS (SOLOv2)
COMPARED = 512  # masks that matrix NMS compares with all better ones at once


@dataclass(frozen=True)
class Instances:
    """Instances over one whole image.

    Attributes:
        masks: bool [n, h, w], on any grid. labels: int64 [n], class 1..k, or VOID. scores: float32 [n], 0..1.
    """

    masks: np.ndarray
    labels: np.ndarray
    scores: np.ndarray

    @classmethod
    def none(cls, size: tuple[int, int]) -> Instances:
        """No instance, on a grid of (h, w)."""
        return cls(np.zeros((0, *size), bool), np.zeros(0, np.int64), np.zeros(0, np.float32))

    def __len__(self) -> int:
        return len(self.masks)

    @property
    def size(self) -> tuple[int, int]:
        """(h, w) of the grid."""
        return int(self.masks.shape[1]), int(self.masks.shape[2])

    def take(self, which: np.ndarray) -> Instances:
        """Those of an index or of a boolean array, in its order."""
        return Instances(self.masks[which], self.labels[which], self.scores[which])

    def at(self, size: tuple[int, int]) -> Instances:
        """On another grid (h, w): what lies at the centres of its cells."""
        (h, w), (height, width) = self.size, size
        if (h, w) == size:
            return self
        rows = np.minimum(((np.arange(height) + 0.5) * h / height).astype(np.int64), h - 1)
        columns = np.minimum(((np.arange(width) + 0.5) * w / width).astype(np.int64), w - 1)
        return Instances(self.masks[:, rows[:, None], columns[None]], self.labels, self.scores)

    def within(self, valid: np.ndarray) -> Instances:
        """Cut down to the cells that are `valid` [h, w]; the others become one void mask."""
        masks = self.masks & valid
        seen = masks.any(axis=(1, 2))
        left = Instances(masks[seen], self.labels[seen], self.scores[seen])
        if valid.all():
            return left
        return left + Instances(~valid[None], np.full(1, VOID, np.int64), np.ones(1, np.float32))

    def apart(self) -> tuple[Instances, np.ndarray | None]:
        """Those that are not void, and the cells [h, w] that no void covers; None where there is no void."""
        void = self.labels == VOID
        if not void.any():
            return self, None
        return self.take(~void), ~self.masks[void].any(axis=0)

    def __add__(self, other: Instances) -> Instances:
        pairs = ((self.masks, other.masks), (self.labels, other.labels), (self.scores, other.scores))
        return Instances(*(np.concatenate(pair) for pair in pairs))


def mask_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """IoU [n, m] float64 of masks a [n, h, w] and b [m, h, w] bool; 0 for two empty masks.

    One product of two matrices: no array of n x m masks is made.
    """
    return _iou(*_flat(a), *_flat(b))


def _flat(masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Masks [n, h, w] as float32 [n, h * w], and their areas float64 [n]."""
    flat = masks.reshape(len(masks), masks.shape[1] * masks.shape[2]).astype(np.float32)
    return flat, masks.sum(axis=(1, 2), dtype=np.float64)


def _iou(a: np.ndarray, areas_a: np.ndarray, b: np.ndarray, areas_b: np.ndarray) -> np.ndarray:
    both = (a @ b.T).astype(np.float64)  # sums of ones below 2 ** 24 are exact in any order
    return np.asarray(both / np.maximum(areas_a[:, None] + areas_b[None] - both, 1))


def ranked(scores: np.ndarray) -> np.ndarray:
    """Order by falling score; between equals the first stays first."""
    return np.argsort(-np.asarray(scores, np.float64), kind="stable")


def matrix_nms(masks: np.ndarray, labels: np.ndarray, scores: np.ndarray, sigma: float = SIGMA) -> np.ndarray:
    """Scores [m] lowered by better masks of the same class that overlap (SOLOv2, Gaussian).

    s_j * min over i < j of exp(-sigma (iou_ij^2 - c_i^2)), with c_i the largest IoU of i with a better one: what is a
    double itself lowers others less.

    Args:
        masks: bool [m, h, w], best first.
    """
    own, factors = np.zeros(len(masks)), np.ones(len(masks))
    flat, areas = _flat(masks)
    for a in range(0, len(masks), COMPARED):  # c_i of all that are better is known by then
        b = min(a + COMPARED, len(masks))
        better = np.arange(b)[:, None] < np.arange(a, b)
        same = labels[:b, None] == labels[None, a:b]
        overlap = _iou(flat[:b], areas[:b], flat[a:b], areas[a:b]) * (same & better)
        own[a:b] = overlap.max(axis=0)
        decay = np.exp(-sigma * (overlap**2 - own[:b, None] ** 2))
        factors[a:b] = np.where(better, decay, 1).min(axis=0).clip(max=1)
    return np.asarray(scores * factors)


def paint(found: Instances, paint_score: float, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Mask [h, w] (0 background, 1..k) and how sure each cell is, [h, w] float32.

    Instances of at least `paint_score` are painted, the single best one where none is (MaskDistill); a cell belongs to
    the highest-scoring of those that cover it, and is as sure as that one's score. Background is as sure as the best
    instance that was not painted there is unsure.
    """
    order = ranked(found.scores)
    clear = found.scores[order] >= paint_score
    painted = order[clear] if clear.any() else order[:1]
    mask, doubt = np.zeros(found.size, dtype), np.zeros(found.size, np.float32)
    for i in order[::-1]:  # the best one last, over all others
        doubt[found.masks[i]] = found.scores[i]
    sure = 1 - doubt
    for i in painted[::-1]:
        mask[found.masks[i]] = found.labels[i]
        sure[found.masks[i]] = found.scores[i]
    return mask, sure


class InstanceWriter:
    """Writes one store of instances, image by image; see the module for its layout."""

    def __init__(self, path: str | Path, attrs: Mapping[str, Any], provenance: Provenance | None = None) -> None:
        self._writer = RaggedWriter(path, "instances", dtype="uint8", attrs=attrs, provenance=provenance)
        self._found: list[list[list[float]]] = []

    def __enter__(self) -> InstanceWriter:
        self._writer.__enter__()
        return self

    def append(self, image_id: str, found: Instances) -> None:
        """Add one image."""
        packed = np.packbits(found.masks, axis=2)  # [n, h, ceil(w / 8)]
        self._writer.append(image_id, packed.reshape(-1, packed.shape[2]), size=np.array(found.size, np.int32))
        self._found.append([[int(c), float(s)] for c, s in zip(found.labels, found.scores, strict=True)])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        self._writer.attrs["found"] = self._found
        return self._writer.__exit__(kind, error, trace)


class InstanceStore:
    """Reads one store of instances.

    Raises:
        StoreError: absent, damaged, or of another kind.
    """

    def __init__(self, path: str | Path) -> None:
        self.store = Ragged(path, "instances")
        self.path, self.ids, self.hash, self.attrs = self.store.path, self.store.ids, self.store.hash, self.store.attrs
        self._found = self.attrs.get("found", [])
        self._size = self.store.per_image("size") if self.ids else np.zeros((0, 2), np.int32)
        rows = [len(found) * int(h) for found, (h, _) in zip(self._found, self._size, strict=False)]
        if len(self._found) != len(self.ids) or rows != self.store.grid[:, 0].tolist():
            raise StoreError(f"{path}: its instances do not fit its masks; delete it and run snakemake again")

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, image_id: str) -> Instances:
        """Instances of one image."""
        return self._unpack(self.store.index(image_id), self.store[image_id])

    def images(self) -> Iterator[tuple[str, Instances]]:
        """(id, instances) of every image, in order."""
        for i, (image_id, packed) in enumerate(self.store.images()):
            yield image_id, self._unpack(i, packed)

    def _unpack(self, i: int, packed: np.ndarray) -> Instances:
        h, w = (int(side) for side in self._size[i])
        found = np.array(self._found[i], np.float64).reshape(-1, 2)
        masks = np.unpackbits(packed.reshape(len(found), h, -(-w // 8)), axis=2, count=w).astype(bool)
        return Instances(masks, found[:, 0].astype(np.int64), found[:, 1].astype(np.float32))

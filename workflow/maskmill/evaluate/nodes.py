"""Trees of segments against labelled objects: every node is a proposal, by the same rules as the segments of a cut.

A node is a set of leaves, so all that is measured of it follows from what is measured of them once: no mask of a node
is made, however many there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from maskmill.errors import StoreError
from maskmill.evaluate.objects import Labelled, boxes, coded
from maskmill.evaluate.truth import Truth
from maskmill.images.tree import Tree


@dataclass(frozen=True)
class Nodes(Labelled):
    """Objects and nodes of one image, without void; nodes ranked, best first: score, area, box, first pixel.

    Attributes:
        objects: int32 [H, W], 0 or 1..n. leaves: int32 [H, W], 0 or 1..l. members: bool [m, l], none empty, no two
            equal. scores: float64 [m], not increasing.
        overlap: int64 [n + 1, l + 1], pixels that are not void by object and leaf; row and column 0 = none.
    """

    leaves: np.ndarray
    members: np.ndarray
    scores: np.ndarray
    overlap: np.ndarray

    @classmethod
    def of(cls, truth: Truth, segments: np.ndarray, parents: np.ndarray, scores: np.ndarray, image_id: str) -> Nodes:
        """Nodes of a truth [H, W] and segments [H, W] (0 = none) of the same size.

        Nodes without a pixel are left out; of those that void made equal the one with the best score is kept.

        Args:
            parents: [P], the parent of each node, see `maskmill.images.tree`. scores: [>= nodes], by node.

        Raises:
            StoreError: parents that are no forest, or a node without score, or whose score is no number.
        """
        tree = Tree.of(parents, int(segments.max(initial=0)), image_id)
        mine = np.asarray(scores, np.float64)[: tree.nodes]
        if len(mine) < tree.nodes or not np.isfinite(mine).all():
            raise StoreError(f"{image_id}: a node of the tree has no score; delete the cut, run again")
        seen = np.where(truth.void, 0, segments).astype(np.int32)
        present = np.bincount(seen.ravel(), minlength=tree.leaves + 1)[1:] > 0
        table = np.concatenate([[0], np.where(present, np.cumsum(present), 0)]).astype(np.int32)
        leaves = table[seen]
        width = int(present.sum()) + 1
        flat = (truth.objects.astype(np.int64) * width + leaves)[~truth.void]
        overlap = np.bincount(flat, minlength=(truth.count + 1) * width).reshape(truth.count + 1, width)
        first = np.full(width, leaves.size)
        np.minimum.at(first, leaves.ravel(), np.arange(leaves.size))
        members = tree.members[:, present]
        order = _ranking(members, mine, overlap.sum(0)[1:], _around(boxes(leaves), members), first[1:])
        return cls(truth.objects, leaves, members[order], mine[order], overlap)

    @cached_property
    def pairs(self) -> np.ndarray:
        """Pixels of every object by node, none first: int64 [n, m + 1]; the best node that holds a pixel has it."""
        found = np.zeros((len(self.overlap) - 1, len(self.members) + 1), np.int64)
        found[:, 0] = self.overlap[1:, 0]
        for leaf, holds in enumerate(self.members.T):
            found[:, 1 + holds.argmax()] += self.overlap[1:, 1 + leaf]
        return found

    @cached_property
    def mask_iou(self) -> np.ndarray:
        """IoU [n, m] float64 of every object with every node."""
        inside = self.members.T.astype(np.int64)
        both = self.overlap[1:, 1:] @ inside
        union = self.overlap[1:].sum(1)[:, None] + (self.overlap[:, 1:].sum(0) @ inside)[None] - both
        return np.asarray(both / np.maximum(union, 1))

    @cached_property
    def segment_boxes(self) -> np.ndarray:
        """[m, 4] int64 y0, x0, y1, x1, the last two exclusive."""
        return _around(boxes(self.leaves), self.members)

    def coded_segments(self) -> list[dict[str, Any]]:
        """COCO's RLE, box (x, y, width, height), area and score of every node."""
        from pycocotools import mask as codec

        codes = [body["segmentation"] for body in coded(self.leaves, boxes(self.leaves))]
        found = []
        for holds, (y0, x0, y1, x1), score in zip(self.members, self.segment_boxes.tolist(), self.scores, strict=True):
            rle = codec.merge([codes[leaf] for leaf in np.flatnonzero(holds)])
            box = [float(x0), float(y0), float(x1 - x0), float(y1 - y0)]
            body = {"segmentation": rle, "bbox": box, "area": float(codec.area(rle))}
            found.append(body | {"score": float(score)})
        return found


def _around(extents: np.ndarray, members: np.ndarray) -> np.ndarray:
    """Boxes [m, 4] around the leaves that each of members [m, l] has; extents: those of the leaves [l, 4]."""
    far = np.int64(1) << 62
    low = np.where(members[..., None], extents[None, :, :2], far).min(axis=1, initial=far)
    high = np.where(members[..., None], extents[None, :, 2:], 0).max(axis=1, initial=0)
    return np.concatenate([low, high], axis=1).astype(np.int64)


def _ranking(
    members: np.ndarray, scores: np.ndarray, areas: np.ndarray, extents: np.ndarray, first: np.ndarray
) -> np.ndarray:
    """Order of the nodes to keep: falling score, falling area, box, first pixel; of equal ones the first."""
    sizes = members @ areas
    starts = np.where(members, first, first.max(initial=0) + 1).min(axis=1, initial=first.max(initial=0) + 1)
    keys = [
        (-score, -size, *box, start)
        for score, size, box, start in zip(
            scores.tolist(), sizes.tolist(), extents.tolist(), starts.tolist(), strict=True
        )
    ]
    order, known = [], set()
    for node in sorted(range(len(keys)), key=keys.__getitem__):
        held = members[node].tobytes()
        if sizes[node] and held not in known:
            known.add(held)
            order.append(node)
    return np.array(order, np.int64)

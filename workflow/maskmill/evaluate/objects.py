"""Class-agnostic object metrics: CorLoc, mBO, FG-ARI, and AP/AR by COCO's rules, image by image.

Segments of a cut are a map, so they do not overlap; objects likewise. Predicted instances may overlap, and are scored
as they are (`maskmill.evaluate.layers`). Void pixels are cut out of both before anything is
measured: a segment that lies wholly in void is no prediction. Boxes are the extents of what is left, in whole pixels,
half open, so that their areas and IoU are exact integers.

No result depends on the order of images or on the numbers of segments: segments are ranked by score, then area, then
box, then shape, and sums are exact (`math.fsum`).
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from maskmill.errors import StoreError
from maskmill.evaluate.truth import Truth
from maskmill.numerics.agreement import adjusted_rand
from maskmill.store.rle import encode_all

CORLOC = (
    "share of the images with an object where the box of the one predicted segment (highest score, ties: largest) has"
    " IoU >= 0.5 with the box of any object; no segment: a miss"
)
AP = (
    "COCO: one class, IoU 0.50:0.05:0.95, 101 recall points, at most 100 segments an image, all areas; score of a"
    " segment, ties: larger first, then by image id"
)
AR = (
    "COCO: mean recall over IoU 0.50:0.05:0.95 of small (area up to 32 x 32 pixels), medium and large (from 96 x 96 on)"
    " objects with at most 100 segments an image, and of all objects with at most 1000; pixels of the scored size"
)
MBO = "IoU of each object with its best segment, mean over the image's objects, then over images with an object"
FG_ARI = (
    "adjusted Rand index of segments and objects on the pixels of objects, where no segment is one group more and"
    " instances that overlap leave a pixel to the best of them; mean over images with an object"
)

ALL: list[float] = [0, 1e10]
SIZES: list[list[float]] = [[0, 32**2], [32**2, 96**2], [96**2, 1e10]]  # COCO's areas in pixels: small, medium, large


@dataclass(frozen=True)
class Labelled:
    """The objects of one image: int32 [H, W], 0 or 1..n; the part that does not depend on what was found."""

    objects: np.ndarray

    @cached_property
    def object_boxes(self) -> np.ndarray:
        """[n, 4] int64 y0, x0, y1, x1, the last two exclusive."""
        return boxes(self.objects)

    def coded_objects(self) -> list[dict[str, Any]]:
        """COCO's RLE, box (x, y, width, height) and area of every object."""
        return coded(self.objects, self.object_boxes)


@dataclass(frozen=True)
class Scene(Labelled):
    """Objects and segments of one image, without void; segments ranked, best first.

    Attributes:
        objects: int32 [H, W], 0 or 1..n. segments: int32 [H, W], 0 or rank 1..m.
        scores: float64 [m], not increasing.
        overlap: int64 [n + 1, m + 1], pixels that are not void by object and segment; row and column 0 = none.
    """

    segments: np.ndarray
    scores: np.ndarray
    overlap: np.ndarray

    @classmethod
    def of(cls, truth: Truth, segments: np.ndarray, scores: np.ndarray, image_id: str) -> Scene:
        """Scene of a truth [H, W] and segments [H, W] (0 = none) of the same size.

        Args:
            scores: [>= largest segment], score of segment i + 1 at i.

        Raises:
            StoreError: a segment without score, or whose score is no number.
        """
        if segments.shape != truth.objects.shape:
            raise ValueError(f"{image_id}: segments of shape {segments.shape}, objects of {truth.objects.shape}")
        seen = np.where(truth.void, 0, segments).astype(np.int32)
        areas = np.bincount(seen.ravel())
        present = np.flatnonzero(areas)
        present = present[present > 0]
        if len(present) and present[-1] > len(scores):
            raise StoreError(f"{image_id}: segment {present[-1]} of {len(scores)} scores; delete the cut, run again")
        mine = np.asarray(scores, np.float64)[present - 1]
        if not np.isfinite(mine).all():
            bad = present[~np.isfinite(mine)][0]
            raise StoreError(f"{image_id}: score of segment {bad} is {scores[bad - 1]}; delete the cut, run again")
        table = np.zeros(len(areas), np.int32)
        order = _ranking(seen, present, mine, areas)
        table[present[order]] = np.arange(1, len(present) + 1)
        ranked = table[seen]
        width = len(present) + 1
        flat = (truth.objects.astype(np.int64) * width + ranked)[~truth.void]
        overlap = np.bincount(flat, minlength=(truth.count + 1) * width).reshape(truth.count + 1, width)
        return cls(truth.objects, ranked, mine[order], overlap)

    @property
    def pairs(self) -> np.ndarray:
        """Pixels of every object by segment, none first: int64 [n, m + 1]."""
        return self.overlap[1:]

    @cached_property
    def mask_iou(self) -> np.ndarray:
        """IoU [n, m] float64 of every object with every segment."""
        both = self.overlap[1:, 1:]
        union = self.overlap[1:].sum(1)[:, None] + self.overlap[:, 1:].sum(0)[None] - both
        return both / np.maximum(union, 1)

    @cached_property
    def segment_boxes(self) -> np.ndarray:
        """[m, 4] int64 y0, x0, y1, x1, the last two exclusive."""
        return boxes(self.segments)

    def coded_segments(self) -> list[dict[str, Any]]:
        """The same of every segment, with its score."""
        found = coded(self.segments, self.segment_boxes)
        return [body | {"score": float(score)} for body, score in zip(found, self.scores, strict=True)]


def _ranking(seen: np.ndarray, present: np.ndarray, scores: np.ndarray, areas: np.ndarray) -> np.ndarray:
    """Order of the present segments: falling score, falling area, box, and where all are equal, shape."""
    extents = boxes(seen)
    extents = extents[extents[:, 2] > 0]  # numbers that do not occur have none
    first = list(zip((-scores).tolist(), (-areas[present]).tolist(), map(tuple, extents.tolist()), strict=True))
    if len(set(first)) == len(first):
        return np.array(sorted(range(len(first)), key=first.__getitem__), np.int64)
    shapes = [np.flatnonzero(seen == number).tolist() for number in present]
    return np.array(sorted(range(len(first)), key=lambda i: (first[i], shapes[i])), np.int64)


def boxes(ids: np.ndarray) -> np.ndarray:
    """Box [largest id, 4] int64 (y0, x0, y1, x1, half open) of each id of ids [H, W]; zeros where an id is absent."""
    from scipy import ndimage

    found = ndimage.find_objects(ids)
    sides = [(0, 0, 0, 0) if s is None else (s[0].start, s[1].start, s[0].stop, s[1].stop) for s in found]
    return np.array(sides, np.int64).reshape(-1, 4)


def box_overlap(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Intersection and union [n, m] int64, in pixels, of boxes a [n, 4] and b [m, 4].

    The fraction is exact. LOST adds 1e-7 to heights and unions, which makes an IoU of one half fall short of it where
    the arithmetic is fine enough to see it; that is not done here.
    """
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    both = np.maximum(high - low, 0).prod(axis=2)
    area_a, area_b = (x[:, 2:] - x[:, :2] for x in (a, b))
    return both, area_a.prod(axis=1)[:, None] + area_b.prod(axis=1)[None] - both


class Seen(Protocol):
    """Objects and what was found in one image, without void, best first, as the metrics look at it; see `Scene`."""

    @property
    def objects(self) -> np.ndarray: ...
    @property
    def pairs(self) -> np.ndarray: ...
    @property
    def mask_iou(self) -> np.ndarray: ...
    @property
    def object_boxes(self) -> np.ndarray: ...
    @property
    def segment_boxes(self) -> np.ndarray: ...
    def coded_objects(self) -> list[dict[str, Any]]: ...
    def coded_segments(self) -> list[dict[str, Any]]: ...


class Metric(Protocol):
    """Sees every image once and keeps no pixels."""

    def add(self, image_id: str, scene: Seen) -> None:
        """Count one image."""

    def result(self) -> dict[str, float | None]:
        """Numbers by name, 0..1; None where nothing could be counted."""


class CorLoc:
    """Share of images whose one predicted box hits an object: the single-object rule of LOST and TokenCut."""

    def __init__(self) -> None:
        self.hits = self.images = 0

    def add(self, image_id: str, scene: Seen) -> None:
        """Images without an object do not count."""
        if not len(scene.object_boxes):
            return
        self.images += 1
        both, union = box_overlap(scene.segment_boxes[:1], scene.object_boxes)
        self.hits += bool((2 * both >= union).any())

    def result(self) -> dict[str, float | None]:
        """{"corloc": share or None}."""
        return {"corloc": self.hits / self.images if self.images else None}


class MeanBestOverlap:
    """mBO: how well the best segment covers each object, whatever its score."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def add(self, image_id: str, scene: Seen) -> None:
        """Images without an object do not count; an object without segments counts 0."""
        if len(scene.mask_iou):
            best = scene.mask_iou.max(axis=1, initial=0)
            self.values.append(math.fsum(best) / len(best))

    def result(self) -> dict[str, float | None]:
        """{"mbo": mean or None}."""
        return {"mbo": math.fsum(self.values) / len(self.values) if self.values else None}


class ForegroundRand:
    """FG-ARI: do two pixels of the objects share a segment exactly where they share an object? 0: as by chance.

    The background does not count, so that a segment that reaches beyond its object loses nothing here; mBO counts that.
    """

    def __init__(self) -> None:
        self.values: list[float] = []
        self._several = False

    def add(self, image_id: str, scene: Seen) -> None:
        """Images without an object do not count; one object in one segment counts 1, in several 0."""
        if len(scene.pairs):
            self.values.append(adjusted_rand(scene.pairs))
            self._several |= len(scene.pairs) > 1

    def result(self) -> dict[str, float | None]:
        """{"fg_ari": mean, at most 1, or None}; None too where no image has two objects to be told apart."""
        return {"fg_ari": math.fsum(self.values) / len(self.values) if self._several else None}


class AveragePrecision:
    """Class-agnostic AP and AR of boxes and masks by pycocotools; keeps run-length codes, no pixels."""

    def __init__(self) -> None:
        self.images: dict[str, Coded] = {}

    def add(self, image_id: str, scene: Seen) -> None:
        """Images without an object count: what is predicted there is wrong."""
        height, width = scene.objects.shape
        self.images[image_id] = Coded(height, width, scene.coded_objects(), scene.coded_segments())

    def result(self) -> dict[str, float | None]:
        """{box,mask} x {ap, ap50, ap75, ar1, ar10, ar100}; None where no image has an object."""
        kinds = {"box": "bbox", "mask": "segm"}
        names = ("ap", "ap50", "ap75", "ar1", "ar10", "ar100")
        if not any(image.truth for image in self.images.values()):
            return {f"{kind}_{name}": None for kind in kinds for name in names}
        ordered = [self.images[image_id] for image_id in sorted(self.images)]
        found: dict[str, float | None] = {}
        for kind, code in kinds.items():
            values = _coco(ordered, code)
            found |= {f"{kind}_{name}": value for name, value in zip(names, values, strict=True)}
        return found


class AverageRecall(AveragePrecision):
    """AR by size, and with a thousand segments an image, by pycocotools."""

    def result(self) -> dict[str, float | None]:
        """{box,mask} x {ars, arm, arl, ar1000}; None where no image has an object of that size."""
        kinds = {"box": "bbox", "mask": "segm"}
        ordered = [self.images[image_id] for image_id in sorted(self.images)]
        found: dict[str, float | None] = {}
        for kind, code in kinds.items():
            values = _recalls(ordered, code) if ordered else [None] * 4
            names = ("ars", "arm", "arl", "ar1000")
            found |= {f"{kind}_{name}": value for name, value in zip(names, values, strict=True)}
        return found


@dataclass(frozen=True)
class Coded:
    """Annotations of one image as run-length codes: objects, and segments with a score."""

    height: int
    width: int
    truth: list[dict[str, Any]]
    found: list[dict[str, Any]]


def coded(ids: np.ndarray, extents: np.ndarray) -> list[dict[str, Any]]:
    """COCO's RLE, box (x, y, width, height) and area of ids 1..n of ids [H, W], in their order."""
    from pycocotools import mask as codec

    found = []
    for value, rle in encode_all(ids):
        if value:
            y0, x0, y1, x1 = (float(side) for side in extents[value - 1])
            box = [x0, y0, x1 - x0, y1 - y0]
            found.append({"segmentation": rle, "bbox": box, "area": float(codec.area(rle))})
    return found


def _coco(images: Sequence[Coded], kind: str) -> list[float]:
    """AP, AP50, AP75, AR1, AR10, AR100 of images."""
    found = _evaluated(images, kind, (1, 10, 100), [ALL])
    precision = found["precision"][:, :, 0, 0, 2]  # [10 IoU, 101 recall] with at most 100 segments
    recall = found["recall"][:, 0, 0]  # [10 IoU, 3 maximal numbers]
    return [float(x.mean()) for x in (precision, precision[0], precision[5], *recall.T)]


def _recalls(images: Sequence[Coded], kind: str) -> list[float | None]:
    """ARs, ARm, ARl and AR1000 of images; None where there is no such object."""
    recall = _evaluated(images, kind, (100, 1000), [ALL, *SIZES])["recall"][:, 0]  # [10 IoU, 4 sizes, 2 numbers]
    means = [float(x.mean()) for x in (*recall[:, 1:, 0].T, recall[:, 0, 1])]
    return [value if value >= 0 else None for value in means]  # it says -1 where there is none


def _evaluated(images: Sequence[Coded], kind: str, most: Sequence[int], areas: Sequence[list[float]]) -> Any:
    """What pycocotools finds of images: `precision` and `recall`, by ranges of areas and maximal numbers."""
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        run = COCOeval(_index(images, "truth"), _index(images, "found"), kind)
        run.params.maxDets = list(most)
        run.params.areaRng, run.params.areaRngLbl = list(areas), [str(i) for i in range(len(areas))]
        run.evaluate()
        run.accumulate()
    return run.eval


def _index(images: Sequence[Coded], name: str) -> Any:
    """Annotations `name` of images as pycocotools indexes them, without a file; ids count from 1: 0 means none."""
    from pycocotools.coco import COCO

    flat = [body | {"image_id": i} for i, image in enumerate(images, 1) for body in getattr(image, name)]
    made = COCO()
    made.dataset = {
        "images": [{"id": i, "height": image.height, "width": image.width} for i, image in enumerate(images, 1)],
        "categories": [{"id": 1, "name": "object"}],
        "annotations": [body | {"id": n, "category_id": 1, "iscrowd": 0} for n, body in enumerate(flat, 1)],
    }
    made.createIndex()
    return made


METRICS: dict[str, type[Metric]] = {
    "corloc": CorLoc, "ap": AveragePrecision, "mbo": MeanBestOverlap, "fg_ari": ForegroundRand,
}  # fmt: skip
RULES = {"corloc": CORLOC, "ap": AP, "mbo": MBO, "fg_ari": FG_ARI}
MORE_METRICS: dict[str, type[Metric]] = {"ar": AverageRecall}  # that are not computed unless they are named
MORE_RULES = {"ar": AR}


def metrics_of(wanted: Sequence[str]) -> list[Metric]:
    """Those of the wanted metrics that compare segments with objects, with nothing seen so far."""
    known = METRICS | MORE_METRICS
    return [known[name]() for name in wanted if name in known]


def rules_of(wanted: Sequence[str]) -> dict[str, str]:
    """The rules that a protocol says: those of all metrics, and of the others those that are wanted."""
    return RULES | {name: rule for name, rule in MORE_RULES.items() if name in wanted}

"""From what a network of instances says to instances, and from these to masks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch

from maskmill.images.decode import resize, target_size
from maskmill.images.instances import Instances, matrix_nms, paint, ranked
from maskmill.images.interpolate import resize_maps
from maskmill.images.masks import mask_dtype
from maskmill.recipe.base import validate
from maskmill.recipe.feature_set import Size
from maskmill.rounds._photo_training import normalise

CANDIDATES = 300  # locations of an image whose masks are looked at, at most
CERTAIN = (0.51, 0.999)  # of what is painted, when it becomes logits: the painted class stays the best one


class Settings(Protocol):
    """What a method's `Params` say of its predictions."""

    @property
    def upsample(self) -> int: ...
    @property
    def detections(self) -> int: ...
    @property
    def least_score(self) -> float: ...
    @property
    def paint_score(self) -> float: ...
    @property
    def size(self) -> Size: ...


class Painting:
    """What the predictors of instances share: how they see a photo, and the masks that they paint.

    Attributes:
        settings: see `Settings`. clusters: k. facts: of the encoder. device: where the network computes.
    """

    def __init__(self, spec: Mapping[str, Any], settings: Settings, device: torch.device) -> None:
        self.settings, self.device, self.clusters = settings, device, int(spec["clusters"])
        self.size = validate(type(settings.size), settings.size.model_dump(), "student", "size")
        self.facts = spec["diagnostics"]["encoder"]

    def seen(self, view: np.ndarray, multiple: int) -> torch.Tensor:
        """A photo uint8 [H, W, 3] as the network's input [1, 3, h, w], resized to `size`."""
        photo = resize(view, target_size(view.shape[0], view.shape[1], self.size, multiple))
        return normalise(torch.from_numpy(photo.copy())[None].to(self.device), self.facts).contiguous()

    def paint(self, found: Instances) -> tuple[np.ndarray, np.ndarray]:
        """Mask and how sure each cell is; see `maskmill.images.instances.paint`."""
        return paint(found, self.settings.paint_score, mask_dtype(self.clusters))

    def logits(self, found: Instances) -> np.ndarray:
        """Log probabilities [k + 1, h, w] float32 whose best class is the painted mask, as refinement wants them."""
        mask, sure = self.paint(found)
        own = sure.clip(*CERTAIN)
        others = (1 - own) / self.clusters
        classes = np.arange(self.clusters + 1)[:, None, None]
        return np.log(np.where(mask[None] == classes, own[None], others[None])).astype(np.float32)


def candidates(scores: np.ndarray, least: float) -> np.ndarray:
    """Places of the best locations, best first: those of at least `least`, at most CANDIDATES; the best one always."""
    order = ranked(scores)[:CANDIDATES]
    return order[: max(1, int((scores[order] >= least).sum()))]


def decode(maps: np.ndarray, classes: np.ndarray, labels: np.ndarray, params: Settings) -> Instances:
    """Instances of probability maps [m, h, w] with class scores and classes [m].

    The score of an instance is that of its class times the mean probability within its mask (SOLO); matrix NMS then
    lowers the scores of doubles. Those of at least `least_score` are kept, at most `detections`; masks have `upsample`
    cells a side for each of the map's.
    """
    size = (maps.shape[1] * params.upsample, maps.shape[2] * params.upsample)
    masks = maps > 0.5
    areas = masks.sum(axis=(1, 2))
    inside = (maps * masks).sum(axis=(1, 2), dtype=np.float64) / np.maximum(areas, 1)
    scores = classes.astype(np.float64) * inside
    order = ranked(scores)
    order = order[areas[order] > 0]
    scores = matrix_nms(masks[order], labels[order], scores[order])
    best = ranked(scores)[: params.detections]
    best = best[scores[best] >= params.least_score]
    fine = resize_maps(maps[order[best]], size) > 0.5
    seen = fine.any(axis=(1, 2))
    return Instances(fine[seen], labels[order[best]][seen].astype(np.int64), scores[best][seen].astype(np.float32))

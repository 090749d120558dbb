"""The trained instance network at work: a photo in, instances out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from maskmill.device import autocast
from maskmill.images.decode import resize, target_size
from maskmill.images.instances import Instances, mask_iou, paint, ranked
from maskmill.images.interpolate import resize_maps
from maskmill.images.masks import mask_dtype
from maskmill.recipe.base import validate
from maskmill.rounds._photo_training import normalise, state_of
from maskmill.rounds.instance.network import InstanceNet, RawPredictions, build, masks_of
from maskmill.rounds.instance.params import Params

CANDIDATES = 300  # locations of an image whose masks are looked at, at most
SIGMA = 2.0  # of matrix NMS (SOLOv2)
CERTAIN = (0.51, 0.999)  # of what is painted, when it becomes logits: the painted class stays the best one


class InstancePredictor:
    """A trained network; see `instance.load`."""

    def __init__(
        self, tensors: Mapping[str, np.ndarray], spec: Mapping[str, Any], params: Params, device: torch.device
    ) -> None:
        self.params, self.device, self.clusters = params, device, int(spec["clusters"])
        self.size = validate(type(params.size), params.size.model_dump(), "student", "size")
        self.facts = spec["diagnostics"]["encoder"]
        network = self.built(spec)
        network.load_state_dict(state_of(tensors))
        self.network: InstanceNet = network.eval().to(device)

    def built(self, spec: Mapping[str, Any]) -> InstanceNet:
        """The network with random weights, of the metadata of a student's file."""
        return build(self.facts["architecture"], self.clusters + 1, self.params)

    def instances(self, view: np.ndarray) -> Instances:
        """Instances of a photo uint8 [H, W, 3], resized to `size`; best first."""
        return self.decoded(self.seen(view))

    def seen(self, view: np.ndarray) -> Any:
        """What the network predicts of a photo uint8 [H, W, 3], resized to `size`."""
        photo = resize(view, target_size(view.shape[0], view.shape[1], self.size, self.network.shape.multiple))
        with torch.inference_mode():
            x = normalise(torch.from_numpy(photo.copy())[None].to(self.device), self.facts).contiguous()
            with autocast(self.device):
                return self.network(x)

    def decoded(self, found: RawPredictions) -> Instances:
        """The instances of one image, best first."""
        params = self.params
        with torch.inference_mode():
            features, kernels = found.features[0].float(), found.kernels[0].float()
            p = torch.softmax(found.logits[0].float(), dim=1)[:, 1:]
            best, label = (value.cpu().numpy() for value in p.max(dim=1))
            keep = candidates(best, params.least_score)
            chosen = torch.from_numpy(keep).to(self.device)
            maps = torch.sigmoid(masks_of(features, kernels[chosen], found.places[chosen])).cpu().numpy()
        return decode(maps, best[keep], label[keep] + 1, params)

    def paint(self, found: Instances) -> tuple[np.ndarray, np.ndarray]:
        """Mask and how sure each cell is; see `maskmill.images.instances.paint`."""
        return paint(found, self.params.paint_score, mask_dtype(self.clusters))

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


def decode(maps: np.ndarray, classes: np.ndarray, labels: np.ndarray, params: Params) -> Instances:
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


def matrix_nms(masks: np.ndarray, labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Scores [m] lowered by better masks of the same class that overlap (SOLOv2, Gaussian).

    s_j * min over i < j of exp(-sigma (iou_ij^2 - c_i^2)), with c_i the largest IoU of i with a better one: what is a
    double itself lowers others less.

    Args:
        masks: bool [m, h, w], best first.
    """
    if not len(masks):
        return scores
    same = labels[:, None] == labels[None]
    overlap = np.triu(mask_iou(masks, masks) * same, 1)  # [better, worse]
    own = overlap.max(axis=0)
    decay = np.exp(-SIGMA * (overlap**2 - own[:, None] ** 2))
    return np.asarray(scores * np.where(np.triu(np.ones_like(overlap), 1) > 0, decay, 1).min(axis=0).clip(max=1))

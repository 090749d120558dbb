"""Free Mask: coarse masks of objects, each the tokens that are like one query of the image itself.

Wang, Yu, De Mello, Kautz, Anandkumar, Shen, Alvarez, "FreeSOLO: Learning to segment objects without annotations", CVPR
2022, section 3.1. The keys are all tokens, the queries the tokens at several scales. A query's map is its cosine with
every key, stretched to 0..1, and its mask is where that is at least `tau`. Masks are ranked by their maskness, the
mean of the map within the mask, doubles are suppressed (matrix NMS of SOLOv2), and the best are filtered: masks at the
top of the photo, as wide as the photo, or of a low score are no objects.

Masks overlap in the published code. Here the segments of an image are disjoint, as those of all cuts: a mask less the
masks of a higher score. Filters look at the grid of the tokens, the published code at masks enlarged to the photo.
"""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from pydantic import Field

from maskmill.cut import Need, Traits
from maskmill.recipe.base import Model

OUTCOMES = {"cut": 0, "no structure": 1, "no object": 2}
TRAITS = Traits(outcomes=OUTCOMES)
SMALLEST = 2  # tokens of a mask


class Params(Model):
    """Symbols of the paper, and the constants of the published code."""

    scales: list[Annotated[float, Field(gt=0, le=2)]] = Field(
        default_factory=lambda: [1.0, 0.5, 0.25],
        min_length=1,
        max_length=8,
        description="sides of the maps of queries, as shares of the grid's",
    )
    tau: float = Field(0.5, gt=0, lt=1, description="stretched similarity from which a token is in a query's mask")
    sigma: float = Field(2.0, ge=0, le=100, description="matrix NMS: how much an overlap lowers the score")
    masks: int = Field(20, ge=1, le=255, description="masks an image before the filters, at most")
    top: float = Field(0.2, ge=0, lt=1, description="share of the height above which no mask has its centre")
    width: float = Field(0.95, gt=0, le=1, description="share of the width from which a mask is too wide")
    least_score: float = Field(0.7, ge=0, lt=1, description="masks of a lower score are no objects")


def needs(params: Params) -> tuple[Need, ...]:
    """Nothing but the tokens."""
    return ()


def regions_per_image(params: Params, code_length: int) -> int:
    """A segment a mask."""
    return params.masks


def cut(tokens: np.ndarray, params: Params, seed: int, image_id: str) -> tuple[np.ndarray, dict[str, Any]]:
    """Objects 1..k of tokens [h, w, d], disjoint (uint8 [h, w], a mask less the masks before it), and diagnostics.

    Diagnostics, all float but the last:
        confidence: the score of the best object, 0 without one. masks: k. queries: how many had a mask.
        outcome: "no structure" where no query has a mask, "no object" where the filters left none.
        scores: float32 [masks], scores[i - 1] of object i: its maskness, lowered by better masks; 0 beyond k.

    Raises:
        NumericsError: a token is NaN or infinite.
    """
    from maskmill.cut._tokens import flat_tokens

    h, w = tokens.shape[:2]
    maps = similarities(flat_tokens(tokens, image_id).reshape(h, w, -1), params.scales)
    masks, ranks = proposals(maps, params)
    objects, scores = filtered(masks, ranks, params)
    segments, kept = _painted(objects, scores, (h, w))
    found = np.zeros(params.masks, np.float32)
    found[: len(kept)] = kept
    outcome = "no structure" if not len(masks) else "cut" if kept else "no object"
    values = {"confidence": float(found[0]), "masks": float(len(kept)), "queries": float(len(maps))}
    return segments, values | {"outcome": float(OUTCOMES[outcome]), "scores": found}


def similarities(tokens: np.ndarray, scales: list[float]) -> np.ndarray:
    """Maps [q, h, w] float32 in 0..1 of the queries of tokens [h, w, d]: cosines, stretched from least to largest.

    Queries of a scale s are the tokens resized to floor(s h) x floor(s w), between neighbours and before they are
    brought to length one. A query that is as similar to all tokens has no map.
    """
    import torch
    from torch.nn import functional

    h, w, d = tokens.shape
    keys = torch.from_numpy(tokens).permute(2, 0, 1)[None]
    parts = [
        functional.interpolate(keys, scale_factor=scale, mode="bilinear")[0].reshape(d, -1)
        for scale in scales
        if int(h * scale) and int(w * scale)
    ]
    if not parts:
        return np.zeros((0, h, w), np.float32)
    queries = functional.normalize(torch.cat(parts, dim=1), dim=0, eps=1e-30)
    cosines = queries.T @ functional.normalize(keys[0].reshape(d, -1), dim=0, eps=1e-30)
    low, high = cosines.amin(dim=1, keepdim=True), cosines.amax(dim=1, keepdim=True)
    span = high - low
    told = span[:, 0] > 1e-6
    cosines.sub_(low).div_(span.clamp_min(1e-30))  # in place: of 3600 tokens it is 68 MB
    return np.asarray((cosines if told.all() else cosines[told]).reshape(-1, h, w))


def proposals(maps: np.ndarray, params: Params) -> tuple[np.ndarray, np.ndarray]:
    """The best masks bool [n, h, w] of maps [q, h, w] and their scores [n] float64, best first; n at most `masks`."""
    from maskmill.images.instances import matrix_nms, ranked

    masks = maps >= params.tau
    sizes = masks.sum(axis=(1, 2))
    kept = sizes >= SMALLEST
    maps, masks, sizes = maps[kept], masks[kept], sizes[kept]
    maskness = np.where(masks, maps, 0).sum(axis=(1, 2), dtype=np.float64) / np.maximum(sizes, 1)
    order = ranked(maskness)
    masks = masks[order]
    scores = matrix_nms(masks, np.ones(len(masks), np.int64), maskness[order], params.sigma)
    best = ranked(scores)[: params.masks]
    return masks[best], scores[best]


def filtered(masks: np.ndarray, scores: np.ndarray, params: Params) -> tuple[np.ndarray, np.ndarray]:
    """Those masks [n, h, w] and scores [n] that may be objects.

    A mask's centre is the mean of the rows that it covers, its width the number of columns.
    """
    rows, columns = masks.any(axis=2), masks.any(axis=1)
    middles = np.arange(masks.shape[1]) + 0.5
    centre = (rows * middles).sum(axis=1) / np.maximum(rows.sum(axis=1), 1)
    below = centre > params.top * masks.shape[1]
    narrow = columns.sum(axis=1) < params.width * masks.shape[2]
    kept = below & narrow & (scores >= params.least_score)
    return masks[kept], scores[kept]


def _painted(masks: np.ndarray, scores: np.ndarray, grid: tuple[int, int]) -> tuple[np.ndarray, list[float]]:
    """Segments of masks, best first, each less those before it; and the scores of those of which something is left."""
    segments, kept = np.zeros(grid, np.uint8), []
    for mask, score in zip(masks, scores, strict=True):
        new = mask & (segments == 0)
        if new.any():
            kept.append(float(score))
            segments[new] = len(kept)
    return segments, kept

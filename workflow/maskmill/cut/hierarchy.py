"""Divide and conquer: objects, and within each of them parts within parts.

Wang, Yang, Darrell, "Segment anything without supervision", NeurIPS 2024, section 3.1. Divide: MaskCut finds objects;
what they leave of the photo is one more part here. Conquer: within each part the two neighbouring clusters of tokens
whose means have the largest cosine are joined, again and again, and the clusters that are there when no cosine is above
a threshold are segments, for each of a few falling thresholds. Published thresholds, sizes and overlaps are defaults.

Objects come from MaskCut's own cuts instead of a detector that was trained on them (CutLER), and parts are found on the
tokens of the photo instead of on those of an enlarged crop of each object: nothing is trained and the backbone runs
once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import Field, model_validator

from maskmill.cut import Need, Traits, maskcut
from maskmill.recipe.base import Model

TRAITS = Traits(tree=True)


class Params(Model):
    """Divide, as in `maskcut`; and conquer."""

    masks: int = Field(3, ge=0, le=64, description="N of MaskCut: objects, at most; 0: the photo is the only part")
    tau: float = Field(0.15, ge=0, lt=1, description="cosine above which MaskCut joins two tokens")
    eps: float = Field(1e-5, ge=1e-8, le=0.1, description="MaskCut's weight of every other pair")
    rest: bool = Field(True, description="what is in no object is divided as well")
    thresholds: tuple[float, ...] = Field(
        (0.6, 0.5, 0.4, 0.3, 0.2, 0.1), min_length=1, max_length=32,
        description="falling cosines: segments are taken where no two neighbours are that similar",
    )  # fmt: skip
    smallest: int = Field(4, ge=1, description="tokens of the smallest segment within a part")
    overlap: float = Field(
        0.9, gt=0, le=1, description="IoU with the segment that it lies in, above which a segment is left out"
    )
    leaves: int = Field(
        127, ge=1, le=254, description="most segments that hold no other; where there are more, `smallest` grows"
    )

    @model_validator(mode="after")
    def _levels(self) -> Params:
        falling = all(a > b for a, b in zip(self.thresholds, self.thresholds[1:], strict=False))
        if not falling or max(map(abs, self.thresholds)) > 1:
            raise ValueError(f"thresholds: {list(self.thresholds)}: give falling cosines in -1..1, the largest first")
        if self.leaves < self.masks:
            raise ValueError(f"leaves: {self.leaves} is less than masks: {self.masks}; raise leaves or lower masks")
        return self


def needs(params: Params) -> tuple[Need, ...]:
    """Nothing but the tokens."""
    return ()


def regions_per_image(params: Params, code_length: int) -> int:
    """A segment a leaf."""
    return params.leaves


def cut(tokens: np.ndarray, params: Params, seed: int, image_id: str) -> tuple[np.ndarray, dict[str, Any]]:
    """Leaves 1..n (uint8 [h, w]) of tokens [h, w, d] and the tree above them.

    A token that is in a segment but in none of the segments within it joins one of the leaves there (`grown`), so that
    the leaves of a segment are all of it. A segment that holds only one other is kept in its place.

    Diagnostics:
        confidence: that of the first object, as in `maskmill.cut.maskcut.cut`; without objects the mean of the scores.
        parents, scores: float32 [2 * leaves - 1], see `maskmill.cut.Method.cut`. Objects score 0.5 + confidence / 2,
            what lies in them or in the rest (1 - cosine) / 2 of the join that ended it, or of the last threshold.
        objects, groups, nodes: how many objects, leaves, and segments in all there are.

    Raises:
        NumericsError: a token is NaN or infinite.
    """
    from maskmill.cut._merging import grown, levels, merged
    from maskmill.cut._tokens import flat_tokens
    from maskmill.images.tree import Tree, most_nodes

    h, w = tokens.shape[:2]
    flat = flat_tokens(tokens, image_id)
    parts, confidences = _divide(tokens, params, seed, image_id)
    pairs, cosines, ends = merged(flat, parts.ravel(), w, np.array(params.thresholds))
    clusters = levels(pairs, ends, h * w)
    if not params.rest and params.masks:
        clusters = np.where(parts.ravel() == 0, -1, clusters)
    above, cluster, home = _few_leaves(clusters, parts.ravel(), len(confidences), params)
    leaf = np.bincount(above[above >= 0], minlength=len(above)) == 0
    found = grown(flat, home, above, leaf, w)
    parents, order = _numbered(above, leaf)
    ended = np.full(h * w + len(pairs), params.thresholds[-1])
    ended[pairs.ravel()] = np.repeat(cosines, 2)
    scores = np.where(cluster < 0, 0.0, np.clip(1 - ended[cluster], 0, 1) / 2)
    scores[: len(confidences)] = 0.5 + np.array(confidences) / 2
    number = np.zeros(len(above) + 1, np.uint8)  # the last one for tokens of no segment
    number[order[: leaf.sum()]] = np.arange(1, leaf.sum() + 1)
    tree = Tree(parents, int(leaf.sum()))
    padded = np.zeros(most_nodes(params.leaves), np.float32)
    padded[: tree.nodes] = scores[order]
    return number[found].reshape(h, w), {
        "confidence": float(confidences[0] if confidences else scores.mean() if len(scores) else 0.0),
        "objects": float(len(confidences)), "groups": float(tree.leaves), "nodes": float(tree.nodes),
        "parents": tree.padded(len(padded)), "scores": padded,
    }  # fmt: skip


def _divide(tokens: np.ndarray, params: Params, seed: int, image_id: str) -> tuple[np.ndarray, list[float]]:
    """Objects 1..k of the photo, int64 [h, w], and 0 for the rest; the confidence of each."""
    if not params.masks:
        return np.zeros(tokens.shape[:2], np.int64), []
    rules = maskcut.Params(masks=params.masks, tau=params.tau, eps=params.eps)
    segments, found = maskcut.cut(tokens, rules, seed, image_id)
    return segments.astype(np.int64), [float(score) for score in found["scores"][: int(found["masks"])]]


def _few_leaves(
    clusters: np.ndarray, parts: np.ndarray, objects: int, params: Params
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`nested`, without segments that are alone in another, and with as many tokens each as leaves few enough."""
    from maskmill.cut._merging import nested

    smallest = params.smallest
    while True:
        above, cluster, home = nested(clusters, parts, objects, smallest, params.overlap)
        above, cluster, home = _without_single(above, cluster, home)
        if len(above) - len(np.unique(above[above >= 0])) <= params.leaves:
            return above, cluster, home
        smallest *= 2


def _without_single(
    above: np.ndarray, cluster: np.ndarray, home: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The segments without those that are the only ones in another, which takes their place."""
    within = np.bincount(above[above >= 0], minlength=len(above))
    instead = np.arange(len(above))
    for node in range(len(above)):  # each after the one that it lies in
        if above[node] >= 0 and within[above[node]] == 1:
            instead[node] = instead[above[node]]
    kept = np.flatnonzero(instead == np.arange(len(above)))
    rank = np.full(len(above) + 1, -1)  # the last entry for -1
    rank[kept] = np.arange(len(kept))
    rank[:-1] = rank[instead]
    return rank[above[kept]], cluster[kept], rank[home]


def _numbered(above: np.ndarray, leaf: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Parents by the numbers of a tree, and the segments in their order: leaves, then the others, inner ones first."""
    inner = np.flatnonzero(~leaf)[::-1]
    order = np.concatenate([np.flatnonzero(leaf), inner]).astype(np.int64)
    number = np.zeros(len(above) + 1, np.int64)  # the last entry for -1
    number[order] = np.arange(1, len(order) + 1)
    return number[above[order]], order

"""ProMerge: prompts on a grid, a mask each, a vote on what is background, and masks that belong together are merged.

Li, Shin, "ProMerge: Prompt and Merge for unsupervised instance segmentation", ECCV 2024, section 3. The tokens that are
similar to a prompt are its mask. A mask that reaches along two sides of the image or more votes for background; the
others fall into connected parts. From the smallest to the largest, a part is kept where most of what it adds is no
background and its mean is unlike that of the background. From the largest to the smallest, parts that overlap, or
overlap a little and are alike, become one object. No eigenproblem is solved.

Published values are the defaults. Objects may overlap there; here the smaller one has what two of them share.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import Field

from maskmill.cut import Need, Traits
from maskmill.recipe.base import Model

OUTCOMES = {"cut": 0, "no background": 1, "no object": 2}
TRAITS = Traits(outcomes=OUTCOMES)
DISC = np.array([[[0, 0, 0]] * 3, [[0, 1, 0], [1, 1, 1], [0, 1, 0]], [[0, 0, 0]] * 3], bool)  # 4 neighbours of a plane


class Params(Model):
    """Symbols of the paper, and the constants of its code."""

    stride: int = Field(4, ge=1, le=64, description="tokens from prompt to prompt")
    tau: float = Field(0.2, gt=-1, lt=1, description="cosine to the prompt above which a token is in its mask")
    sides: int = Field(2, ge=1, le=4, description="sides that a mask holds half of from which on it is background")
    part: float = Field(0.5, ge=0, description="a part counts from this share of the prompt's own part on")
    votes: float = Field(0.5, ge=0, lt=1, description="share of the background's masks that a token of it is in")
    least_background: float = Field(0.1, ge=0, lt=1, description="share of background below which there is no object")
    background_overlap: float = Field(
        0.8, gt=0, le=1, description="share of background in what a part adds, from which on it is dropped"
    )
    background_cosine: float = Field(
        0.1, ge=-1, le=1, description="product of its mean and the background's from which on a part is dropped"
    )
    overlap: float = Field(0.5, ge=0, le=1, description="share of a part within an object above which it joins it")
    touch: float = Field(0.1, ge=0, le=1, description="share above which it does where the two are alike")
    alike: float = Field(0.1, ge=-1, le=1, description="product of their means from which on they are")
    masks: int = Field(64, ge=1, le=254, description="objects an image, at most: the largest ones")


def needs(params: Params) -> tuple[Need, ...]:
    """Nothing but the tokens."""
    return ()


def regions_per_image(params: Params, code_length: int) -> int:
    """A segment an object."""
    return params.masks


def cut(tokens: np.ndarray, params: Params, seed: int, image_id: str) -> tuple[np.ndarray, dict[str, Any]]:
    """Objects 1..k of tokens [h, w, d], disjoint (uint8 [h, w]), the largest first, and diagnostics.

    Diagnostics, all float but the last:
        confidence: mean of the scores, 0 without an object. outcome: see OUTCOMES. background: its share of the tokens.
        prompts, parts, objects: how many masks there were, connected parts that were kept, and objects.
        scores: float32 [masks], scores[i - 1] of object i: 1 - the product of its mean and the background's, in 0..1.

    Raises:
        NumericsError: a token is NaN or infinite.
    """
    from maskmill.cut._partition import padded
    from maskmill.cut._tokens import flat_tokens

    h, w = tokens.shape[:2]
    flat = flat_tokens(tokens, image_id)
    unit = flat / np.linalg.norm(flat, axis=1, keepdims=True).clip(1e-30)
    parts, ground, prompts = proposals(unit, (h, w), params)
    found = {"confidence": 0.0, "outcome": float(OUTCOMES["no background"]), "background": float(ground.mean())}
    found |= {"prompts": float(prompts), "parts": 0.0, "objects": 0.0}
    segments, scores = np.zeros(h * w, np.uint8), np.zeros(0)
    if ground.any() and ground.mean() >= params.least_background:
        mean = unit[ground].mean(0)
        kept = filtered(parts, unit, ground, params)
        objects = united(kept, unit, params)[: params.masks]
        for i, mask in enumerate(objects):
            segments[mask] = i + 1
        present = np.unique(segments[segments > 0])  # one that smaller ones cover is none
        segments = np.concatenate([[0], np.searchsorted(present, np.arange(1, len(objects) + 1)) + 1])[segments]
        scores = np.array([np.clip(1 - unit[objects[i - 1]].mean(0) @ mean, 0, 1) for i in present])
        found |= {"parts": float(len(kept)), "objects": float(len(present))}
        found |= {"outcome": float(OUTCOMES["cut" if len(present) else "no object"])}
        found |= {"confidence": float(scores.mean()) if len(scores) else 0.0}
    return segments.reshape(h, w).astype(np.uint8), found | {"scores": padded(scores, params.masks)}


def proposals(unit: np.ndarray, grid: tuple[int, int], params: Params) -> tuple[np.ndarray, np.ndarray, int]:
    """What the prompts find in unit tokens [h * w, d] of a grid (h, w).

    Returns:
        Connected parts of the masks that are no background, bool [m, h * w], by prompt and falling size; the
        background, bool [h * w]; and the number of prompts.
    """
    from scipy import ndimage

    h, w = grid
    prompts = np.arange(h * w).reshape(h, w)[:: params.stride, :: params.stride].ravel()
    masks = unit[prompts] @ unit.T > params.tau  # [p, n]
    masks[np.arange(len(prompts)), prompts] = True
    planes = masks.reshape(-1, h, w)
    borders = [planes[:, 0], planes[:, -1], planes[:, :, 0], planes[:, :, -1]]
    ground = np.sum([2 * border.sum(1) > border.shape[1] for border in borders], axis=0) >= params.sides
    background = masks[ground].sum(0) > params.votes * ground.sum()
    names, _ = ndimage.label(planes[~ground], DISC)
    names = names.reshape(-1, h * w)
    sizes = np.bincount(names.ravel())
    parts = [np.zeros((0, h * w), bool)]
    for plane, prompt in zip(names, prompts[~ground], strict=True):
        inside = np.unique(plane)
        inside = inside[inside > 0]
        inside = inside[np.argsort(-sizes[inside], kind="stable")]
        inside = inside[sizes[inside] >= params.part * sizes[plane[prompt]]]
        parts.append(plane == inside[:, None])
    return np.concatenate(parts), background, len(prompts)


def filtered(parts: np.ndarray, unit: np.ndarray, ground: np.ndarray, params: Params) -> np.ndarray:
    """The parts bool [m, n] that are kept as foreground, smallest first; unit tokens [n, d], ground bool [n]."""
    sizes = parts.sum(1)
    order = np.argsort(sizes, kind="stable")
    products = (parts.astype(np.float32) @ (unit @ unit[ground].mean(0))) / sizes
    covered, kept = np.zeros(parts.shape[1], bool), []
    for i in order[products[order] < params.background_cosine]:
        new = parts[i] & ~covered
        count = np.count_nonzero(new)
        if count and np.count_nonzero(new & ground) < params.background_overlap * count:
            covered |= parts[i]
            kept.append(i)
    return parts[kept]


def united(parts: np.ndarray, unit: np.ndarray, params: Params) -> list[np.ndarray]:
    """Objects bool [n] of parts bool [m, n], smallest first; the largest object first."""
    sizes = parts.sum(1)
    means = (parts.astype(np.float32) @ unit) / sizes[:, None].clip(1)
    objects: list[np.ndarray] = []
    mean: list[np.ndarray] = []
    for i in np.argsort(-sizes, kind="stable"):
        joins = []
        for k, mask in enumerate(objects):
            inside = np.count_nonzero(mask & parts[i])
            near = inside > params.touch * sizes[i] and means[i] @ mean[k] >= params.alike
            if inside > params.overlap * sizes[i] or near:
                joins.append(k)
        whole = np.any([parts[i], *(objects[k] for k in joins)], axis=0)
        objects = [mask for k, mask in enumerate(objects) if k not in joins] + [whole]
        mean = [each for k, each in enumerate(mean) if k not in joins] + [unit[whole].mean(0) if joins else means[i]]
    return [objects[k] for k in np.argsort([-np.count_nonzero(mask) for mask in objects], kind="stable")]

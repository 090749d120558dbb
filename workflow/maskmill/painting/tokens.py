"""The mask of an image whose tokens were clustered: interpolated scores of the clusters, the best one wins."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from maskmill.images.interpolate import best_scores
from maskmill.images.masks import ignore_value, mask_dtype
from maskmill.recipe.sections import Refine
from maskmill.refine import refine_scores, refine_step
from maskmill.store.codebook import Codebook, scores

COSINES = 2.0  # logits a unit of cosine (STEGO)


def paint_tokens(
    tokens: np.ndarray,
    book: Codebook,
    upsample: int,
    settings: Refine,
    see: Callable[[tuple[int, int]], np.ndarray] | None = None,
    ground: Codebook | None = None,
) -> np.ndarray:
    """Mask [h * upsample, w * upsample] of the token vectors [h, w, d] of one image.

    Args:
        book: of the clusters. ground: of background and foreground. see: gives the photo uint8 [H, W, 3] on a grid
            (H, W); without it nothing is refined.
    """
    tokens, clusters = tokens.astype(np.float32), len(book)
    size, step = (tokens.shape[0] * upsample, tokens.shape[1] * upsample), refine_step(upsample)
    photo = see((size[0] * step, size[1] * step)) if see else None
    outside = None if ground is None else best_labels(tokens, ground, size, photo, settings) == 0
    best = best_labels(tokens, book, size, photo, settings, outside)
    mask = (best + 1).astype(mask_dtype(clusters))
    noise = 0 if book.noise_is_background else ignore_value(mask.dtype)
    mask[best == clusters] = noise  # its score comes after those of the clusters
    if outside is not None:
        mask[outside] = 0
    return mask


def best_labels(
    tokens: np.ndarray,
    book: Codebook,
    size: tuple[int, int],
    photo: np.ndarray | None,
    settings: Refine,
    void: np.ndarray | None = None,
) -> np.ndarray:
    """Cluster of every mask cell [H, W] int64 (k is noise) by interpolated scores of tokens [h, w, d].

    Args:
        photo: uint8 [H * step, W * step, 3] to refine with. void: bool [H, W], cells that are not refined.
    """
    h, w, d = tokens.shape
    maps = np.moveaxis(np.asarray(scores(tokens.reshape(h * w, d), book)).reshape(h, w, -1), 2, 0)
    best = best_scores(maps, size)
    if photo is None:
        return best
    return refine_scores(COSINES * maps if book.spherical else in_spreads(maps), best, photo, settings, void)


def in_spreads(maps: np.ndarray) -> np.ndarray:
    """Negative squared distances [k, h, w] in units of the image's mean one to the nearest centre.

    Distances have no scale of their own; this makes a cluster that is as far again as the nearest one unlikely by e.
    """
    nearest = float(-maps.max(axis=0).mean(dtype=np.float64))
    return maps / max(nearest, 1e-12)

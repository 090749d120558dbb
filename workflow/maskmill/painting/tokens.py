"""The mask of an image whose tokens were clustered: interpolated scores of the clusters, the best one wins."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from maskmill.errors import ConfigError
from maskmill.images.interpolate import best_scores, resize_maps
from maskmill.images.masks import mask_dtype
from maskmill.images.nodata import at_grid, ignored
from maskmill.painting.scoring import margin, scores, values
from maskmill.recipe.sections import Refine
from maskmill.refine import refine_scores, refine_step
from maskmill.store.classes import Classes, Labels
from maskmill.store.codebook import Codebook

COSINES = 2.0  # logits a unit of cosine (STEGO)
LEAST = 1e-6  # of a probability


def paint_tokens(
    tokens: np.ndarray,
    book: Labels,
    upsample: int,
    settings: Refine,
    see: Callable[[tuple[int, int]], np.ndarray] | None = None,
    ground: Codebook | None = None,
    valid: np.ndarray | None = None,
) -> np.ndarray:
    """Mask [h * upsample, w * upsample] of the token vectors [h, w, d] of one image.

    Args:
        book: the clusters, or the classes made of them. ground: of background and foreground.
        see: gives the photo uint8 [H, W, 3] on a grid (H, W); without it nothing is refined.
        valid: bool [h, w], tokens that show data; the cells of the others are ignore, and no refinement asks them.
    """
    tokens, clusters = tokens.astype(np.float32), len(book)
    size, step = (tokens.shape[0] * upsample, tokens.shape[1] * upsample), refine_step(upsample)
    photo = see((size[0] * step, size[1] * step)) if see else None
    shown = at_grid(valid, size)
    void = None if shown is None else ~shown
    outside = None if ground is None else best_labels(tokens, ground, size, photo, settings, void) == 0
    apart = outside if void is None or outside is None else outside | void
    best = best_labels(tokens, book, size, photo, settings, void if outside is None else apart)
    mask = np.asarray(values(book, mask_dtype(clusters))[best])
    if outside is not None:
        mask[outside] = 0
    return ignored(mask, shown)


def best_labels(
    tokens: np.ndarray,
    book: Labels,
    size: tuple[int, int],
    photo: np.ndarray | None,
    settings: Refine,
    void: np.ndarray | None = None,
) -> np.ndarray:
    """Column of `scoring.scores` of every mask cell [H, W] int64, by interpolated scores of tokens [h, w, d].

    Args:
        photo: uint8 [H * step, W * step, 3] to refine with. void: bool [H, W], cells that are not refined.
    """
    h, w, d = tokens.shape
    maps = np.moveaxis(np.asarray(scores(tokens.reshape(h * w, d), book)).reshape(h, w, -1), 2, 0)
    best = best_scores(maps, size)
    if photo is None:
        return best
    return refine_scores(_logits(maps, book), best, photo, settings, void)


def margins(tokens: np.ndarray, book: Labels, size: tuple[int, int]) -> np.ndarray:
    """How sure each mask cell [H, W] is of its column, float32 in 0..1, by interpolated scores of tokens [h, w, d].

    1 - (distance to the nearest) / (distance to the second nearest), which is 0 on the border between two clusters or
    classes and 1 at a centre; of probabilities the lead of the first over the second.
    """
    h, w, d = tokens.shape
    found = np.asarray(scores(tokens.astype(np.float32).reshape(h * w, d), book))
    if found.shape[1] < 2:
        return np.ones(size, np.float32)
    fine = resize_maps(np.moveaxis(found.reshape(h, w, -1), 2, 0), size)
    second, first = np.partition(fine, -2, axis=0)[-2:]
    if not isinstance(book, Codebook) and book.book is None:
        return np.asarray(first - second)
    return margin(first, second, _spherical(book)).astype(np.float32)


def confidences(tokens: np.ndarray, classes: Classes, size: tuple[int, int]) -> np.ndarray:
    """How often the class of each mask cell [H, W] is right, float32 in 0..1, by interpolated scores of its tokens.

    Raises:
        ConfigError: no labels have calibrated these classes.
    """
    calibration = classes.calibration
    if not calibration:
        why = calibration.sentence if calibration is not None else "uncalibrated: no labels made the classes"
        raise ConfigError(f"paint.abstain_by: confidence: {why}; label more images, or use abstain_by: margin")
    h, w, d = tokens.shape
    found = np.asarray(scores(tokens.astype(np.float32).reshape(h * w, d), classes))
    fine = resize_maps(np.moveaxis(found.reshape(h, w, -1), 2, 0), size)
    return calibration.confidence(fine.max(axis=0))


def _spherical(book: Labels) -> bool:
    return book.spherical if isinstance(book, Codebook) else bool(book.book and book.book.spherical)


def _logits(maps: np.ndarray, book: Labels) -> np.ndarray:
    """Scores [C, h, w] in the unit that refinement expects."""
    if not isinstance(book, Codebook) and book.book is None:
        return np.asarray(np.log(np.maximum(maps, LEAST)))
    return COSINES * maps if _spherical(book) else in_spreads(maps)


def in_spreads(maps: np.ndarray) -> np.ndarray:
    """Negative squared distances [k, h, w] in units of the image's mean one to the nearest centre.

    Distances have no scale of their own; this makes a cluster that is as far again as the nearest one unlikely by e.
    """
    nearest = float(-maps.max(axis=0).mean(dtype=np.float64))
    return maps / max(nearest, 1e-12)

"""Refinement of masks with the photo, shared by the stages cut, paint and rounds. What a method must bring.

A method is one file of this folder, a module that satisfies `Method`. Importing this package is cheap, because every
job imports the methods of its recipe.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from maskmill.recipe import registry

if TYPE_CHECKING:
    from maskmill.recipe.base import Model
    from maskmill.recipe.sections import Refine

FINE = 8  # cells a token side to refine on (docs/refine.md)
KEEP_IOU = 0.5  # a segment that keeps less than this of itself is not refined (CutLER, TokenCut)


@dataclass(frozen=True)
class Traits:
    """Facts about a method that hold whatever its parameters are.

    Attributes:
        reads_photo: the method looks at the photo; without it masks stay as they are, and no photo is read.
    """

    reads_photo: bool = True


class Method(Protocol):
    """A refinement.

    Attributes:
        Params: the method's parameters, a frozen `maskmill.recipe.base.Model`. TRAITS: facts about the method.
    """

    Params: type[Model]
    TRAITS: Traits

    def refine(self, logits: np.ndarray, image: np.ndarray, params: Any, void: np.ndarray | None) -> np.ndarray:
        """Scores [k, H, W] of classes whose logits are [k, H, W]; the class of the highest score wins.

        Args:
            image: uint8 [H, W, 3]. void: bool [H, W], pixels that neither vote nor change; None: there are none.
        """

    def one_part(self, params: Any) -> bool:
        """Whether a cut with one segment keeps only the largest connected part of it, with its holes filled."""


def method_of(settings: Refine) -> Method:
    """The module of a section's method."""
    method: Method = registry.load("refine", settings.method)  # type: ignore[assignment]
    return method


def refine(given: np.ndarray, image: np.ndarray, settings: Refine, void: np.ndarray | int | None = None) -> np.ndarray:
    """Labels [H, W] of the refined map; void pixels keep their label (or, with logits, their best class).

    Args:
        given: labels [H, W] of any integer type, whose classes become logits of 1 for the pixel's own and 0 for the
            others; or logits float [k, H, W], whose indices are the labels. Logits are compared by softmax.
        image: uint8 [H, W, 3] on the same grid.
        settings: method and parameters.
        void: bool [H, W], or the label that is void: such pixels are never changed and never vote.

    Returns:
        Labels of the type of `given`, int64 for logits. A tie goes to the lowest label.

    Raises:
        ValueError: shapes or types that do not fit. NumericsError: NaN or infinite logits, or see the method.
    """
    logits, classes, start, outside = _prepare(given, image, void)
    method = method_of(settings)
    if not method.TRAITS.reads_photo or len(classes) < 2:
        return start
    scores = method.refine(logits, image, settings.params, outside)
    found = classes[scores.argmax(0)].astype(start.dtype)
    return found if outside is None else np.where(outside, start, found)


def refine_segments(
    segments: np.ndarray, image: np.ndarray, settings: Refine, keep_iou: float = KEEP_IOU, fill_holes: bool = False
) -> tuple[np.ndarray, int]:
    """Segments [h, w] (0: none) refined jointly on the image's grid [H, W], and how many were kept as they were.

    A segment whose refined version has an IoU below `keep_iou` with the segment as it was is not refined: it keeps its
    original cells, except those that another segment has taken, and gives back the cells that it has taken elsewhere.

    Args:
        fill_holes: the holes of each refined segment become part of it before it is compared with the segment as it
            was (CutLER); what another segment has of a hole stays with that segment.
    """
    from maskmill.images.interpolate import one_hots, resize_maps

    present, maps = one_hots(segments)
    logits = resize_maps(maps, image.shape[:2])
    before = present[logits.argmax(0)]
    after = present[refine(logits, image, settings)]
    if len(present) == 2 and present[0] == 0 and method_of(settings).one_part(settings.params):
        after = np.where(one_object(after != 0), present[1], 0)
    if fill_holes:
        after = filled(after)
    kept = [s for s in present if s and _iou(before == s, after == s) < keep_iou]
    for s in kept:
        after = np.where((after == s) & (before != s), before, after)
        after = np.where((before == s) & ((after == 0) | np.isin(after, kept)), s, after)
    return after.astype(segments.dtype), len(kept)


def filled(segments: np.ndarray) -> np.ndarray:
    """Segments [H, W] with the holes of each filled: what is 0 and cut off from the border by a segment alone.

    A hole is not connected with the outside over edges of cells. Segments do not overlap, so the cells that other
    segments have within a hole stay theirs; where holes lie in one another, the lower label takes the cells between.
    """
    from scipy.ndimage import binary_fill_holes

    found = segments.copy()
    for s in np.unique(segments):
        if s:
            found[binary_fill_holes(segments == s) & (found == 0)] = s
    return found


def one_object(mask: np.ndarray) -> np.ndarray:
    """The largest 4-connected component of a mask [H, W] with its holes filled; the first of equals, row by row."""
    from scipy.ndimage import binary_fill_holes, label

    mask = binary_fill_holes(mask)
    parts, count = label(mask)
    return mask if count < 2 else parts == 1 + np.bincount(parts.ravel())[1:].argmax()


def refine_step(upsample: int) -> int:
    """Cells of the refinement grid along a side of a mask cell, with `upsample` mask cells a token side."""
    return -(-FINE // upsample)


def refine_scores(
    maps: np.ndarray, best: np.ndarray, photo: np.ndarray, settings: Refine, void: np.ndarray | None = None
) -> np.ndarray:
    """Classes [H, W] of score maps [k, h, w] fitted to the photo [H * step, W * step, 3].

    `best` [H, W] is the class of the highest score before. Classes that are nowhere the best are left out, and so are
    the cells of `void` [H, W].
    """
    from maskmill.images.interpolate import majority, resize_maps

    if void is not None and void.all():
        return best
    winners = np.unique(best if void is None else best[~void])
    step = photo.shape[0] // best.shape[0]
    fine_void = None if void is None else void.repeat(step, axis=0).repeat(step, axis=1)
    found = refine(resize_maps(maps[winners], photo.shape[:2]), photo, settings, fine_void)
    return np.asarray(winners[majority(found, photo.shape[0] // best.shape[0])])


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / max(1, (a | b).sum()))


def _prepare(
    given: np.ndarray, image: np.ndarray, void: np.ndarray | int | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
    """Checked: logits [k, H, W] of the classes, their labels [k], the labels before, and the void pixels."""
    from maskmill.errors import NumericsError

    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"the image has shape {image.shape} and type {image.dtype}, expected uint8 [H, W, 3]")
    if given.ndim not in (2, 3) or given.shape[-2:] != image.shape[:2] or not given.size:
        raise ValueError(f"a map of shape {given.shape} does not fit an image of {image.shape[:2]}")
    if given.ndim == 3:
        if not np.isfinite(given).all():
            raise NumericsError("refine: scores are NaN or infinite; delete the feature store and run snakemake again")
        if isinstance(void, int):
            raise ValueError("logits have no void label; give void as a mask")
        return given.astype(np.float32), np.arange(len(given)), given.argmax(0), _mask(void, image)
    outside = _mask(given == void if isinstance(void, int | np.integer) else void, image)
    classes = np.unique(given if outside is None else given[~outside])
    logits = (given[None] == classes[:, None, None]).astype(np.float32)
    return logits, classes, given, outside


def _mask(void: np.ndarray | None, image: np.ndarray) -> np.ndarray | None:
    """The void pixels, None where there are none."""
    if void is None:
        return None
    void = np.asarray(void, bool)
    if void.shape != image.shape[:2]:
        raise ValueError(f"void of shape {void.shape} does not fit an image of {image.shape[:2]}")
    return void if void.any() else None

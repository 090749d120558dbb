"""From an eigenvector to the mask of one object: split at the mean, seed, connected component (TokenCut)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

PLATEAU = 1e-3  # |y| within this share of the maximum is a tie: rounding must not choose the object


@dataclass(frozen=True)
class Object:
    """One object.

    Attributes:
        mask: bool [h, w]. seed: (row, column) of its first token of the largest |y|. rivals: how many other
            components hold a token of the same |y|: where there are any, the choice among them is a convention.
    """

    mask: np.ndarray
    seed: tuple[int, int]
    rivals: int


def object_of(y: np.ndarray, *, largest: bool = False) -> Object:
    """The object in a generalised eigenvector y [h, w], whatever its sign.

    The tokens are split at mean(y). On a binary graph y is constant on well separated groups, so that many tokens
    share the largest |y|, on one side or both. Of the 4-connected components (each within one side) that hold one of
    them, the one with the most tokens is taken, and of equal ones the one whose seed comes first, row by row.

    Args:
        largest: take the largest component of the seed's side instead of the seed's own.
    """
    from scipy import ndimage

    magnitude = np.abs(y)
    peak = magnitude >= (1 - PLATEAU) * magnitude.max()
    above = y > y.mean()
    foreground, count = ndimage.label(above)
    background, _ = ndimage.label(~above)
    labels = np.where(above, foreground, background + count)  # every token has its component, from 1
    sizes = np.bincount(labels.ravel())
    seeds = np.flatnonzero(peak)
    components = labels.ravel()[seeds]
    best = int(np.lexsort((seeds, -sizes[components]))[0])
    seed, chosen = int(seeds[best]), int(components[best])
    if largest:
        same_side = np.unique(labels[above == above.flat[seed]])
        chosen = int(same_side[np.argmax(sizes[same_side])])
    place = divmod(seed, y.shape[1])
    return Object(labels == chosen, place, len(np.unique(components)) - 1)

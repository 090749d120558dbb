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
        side: bool [h, w], the side of the split that holds the mask.
    """

    mask: np.ndarray
    seed: tuple[int, int]
    rivals: int
    side: np.ndarray

    def others(self) -> list[np.ndarray]:
        """The other 4-connected components of the side, largest first, then row by row."""
        from scipy import ndimage

        labels, count = ndimage.label(self.side & ~self.mask)
        sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
        return [labels == 1 + i for i in np.argsort(-sizes, kind="stable")]


def object_of(y: np.ndarray, *, component: str = "seed", border: bool = False, corners: bool = False) -> Object:
    """The object in a generalised eigenvector y [h, w], whatever its sign.

    The tokens are split at mean(y). On a binary graph y is constant on well separated groups, so that many tokens
    share the largest |y|, on one side or both. Of the 4-connected components (each within one side) that hold one of
    them, the one with the most tokens is taken, and of equal ones the one whose seed comes first, row by row.

    Args:
        component: "seed" for the seed's own component, "largest" for the largest of the seed's side, "all" for the
            whole side.
        border: look for the seed only on the side of which the smaller share lies on the image's border (boundary
            prior: Wei, Wen, Zhu, Sun, "Geodesic saliency using background priors", ECCV 2012): the largest |y| is as
            often in a small, uniform piece of background as in the object. Equal shares: no side is excluded.
        corners: where one side holds three or four of the grid's corners, look for the seed on the other: the token
            farthest out in its direction (MaskCut).
    """
    from scipy import ndimage

    above = y > y.mean()
    magnitude = np.abs(y)
    if border:
        magnitude = np.where(_inner_side(above), magnitude, -1)
    count = above[[0, 0, -1, -1], [0, -1, 0, -1]].sum() if corners else 2
    if count != 2:
        magnitude = np.where(above, -np.inf, -y) if count > 2 else np.where(above, y, -np.inf)
    peak = magnitude >= (1 - PLATEAU) * magnitude.max()
    foreground, count = ndimage.label(above)
    background, _ = ndimage.label(~above)
    labels = np.where(above, foreground, background + count)  # every token has its component, from 1
    sizes = np.bincount(labels.ravel())
    seeds = np.flatnonzero(peak)
    components = labels.ravel()[seeds]
    best = int(np.lexsort((seeds, -sizes[components]))[0])
    seed, chosen = int(seeds[best]), int(components[best])
    side = above == above.flat[seed]
    if component == "largest":
        same_side = np.unique(labels[side])
        chosen = int(same_side[np.argmax(sizes[same_side])])
    mask = side if component == "all" else labels == chosen
    return Object(mask, divmod(seed, y.shape[1]), len(np.unique(components)) - 1, side)


def _inner_side(above: np.ndarray) -> np.ndarray:
    """The side, bool [h, w], of which the smaller share lies on the border; everything where they are equal."""
    edge = np.ones(above.shape, bool)
    edge[1:-1, 1:-1] = False
    inside, outside = int((above & edge).sum()) * int((~above).sum()), int((~above & edge).sum()) * int(above.sum())
    if inside == outside:
        return np.ones(above.shape, bool)
    return above if inside < outside else ~above

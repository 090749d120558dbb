"""Which level of a file is read, and which windows of it: geometry alone, from the header and the section `window`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from maskmill.errors import InputError
from maskmill.images.view import View
from maskmill.images.windows import grid
from maskmill.recipe.inputs import Window
from maskmill.store.manifest import window_id

FARTHEST = 2.5  # what is read may be so much coarser or finer than what was asked for: levels are 2 or 4 apart
Sizes = Sequence[tuple[int, int]]  # (height, width) of every level, the full resolution first


def level_of(levels: Sizes, unit: tuple[float, float] | None, window: Window) -> int:
    """The level of the pyramid that is read.

    Args:
        unit: side of a pixel of level 0 along y and x, in microns or in units of the map; None where the file says
            none.

    Raises:
        InputError: no such level; a resolution is asked of a file that has none, or none near it. The reason,
            without the path.
    """
    asked = window.resolution
    if asked is None:
        wanted = window.level or 0
        if wanted >= len(levels):
            has = "no pyramid" if len(levels) == 1 else f"levels 0 to {len(levels) - 1}"
            raise InputError(f"inputs.window.level: {wanted}, but the file has {has}; set a level that all files have")
        return wanted
    if unit is None:
        raise InputError(
            f"inputs.window.resolution: {asked:g}, but the file does not say how large a pixel is; "
            "set inputs.window.level instead"
        )
    sides = [resolution_of(levels, unit, level) for level in range(len(levels))]
    far = [abs(math.log(side / asked)) for side in sides]
    nearest = far.index(min(far))
    if far[nearest] > math.log(FARTHEST):
        has = ", ".join(f"{side:.4g}" for side in sides)
        raise InputError(
            f"inputs.window.resolution: {asked:g}, but a pixel of the file's levels is {has}; ask for one of these, or "
            "set inputs.window.level"
        )
    return nearest


def resolution_of(levels: Sizes, unit: tuple[float, float], level: int) -> float:
    """Side of a pixel of a level, in microns or units of the map: the mean of both sides, as ratios."""
    down, right = scale_of(levels, level)
    return math.sqrt(unit[0] * down * unit[1] * right)


def scale_of(levels: Sizes, level: int) -> tuple[float, float]:
    """Pixels of level 0 in one pixel of a level, along y and x."""
    return levels[0][0] / levels[level][0], levels[0][1] / levels[level][1]


def windows(base: View, levels: Sizes, level: int, window: Window) -> list[View]:
    """The views of one image, row by row; one without a window, where the level is no larger than a window.

    Args:
        base: the page, the channels and the range, which all of them share.
    """
    whole = levels[level]
    if level:
        base = replace(base, level=level, scale=scale_of(levels, level))
    if max(whole) <= window.size:
        return [base]
    return [
        replace(base, window=box, whole=whole, overlap=window.overlap)
        for box in grid(whole, window.size, window.overlap)
    ]


def name_of(view: View) -> str:
    """What follows the id of the file (or of its page): `/y0000512x0001024`, so that ids sort row by row."""
    return "" if view.window is None else window_id("", *view.window[:2])

"""An open file cut into its windows: every block of it is decoded about once, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby

import numpy as np

from maskmill.images.raster import Facts, Raster, Shown, read_raw, render
from maskmill.images.view import View
from maskmill.images.windows import starts
from maskmill.inputs._windows import level_of, windows
from maskmill.recipe.inputs import Window

BAND_BYTES = 256 << 20  # of decoded values that are held at once
# A window is bare background where all but few of its pixels lie within SPREAD of 255 levels in each colour, and are
# this bright or dark: the glass of a slide, the frame of a scan. What has more contrast, or another tone, stays.
SPREAD = 12
BRIGHT, DARK = 215, 10
STRAY = 1000  # one pixel of so many may be anything, at either end


def views_of(facts: Facts, base: View, window: Window) -> list[View]:
    """The views that one picture of a file becomes, row by row; one without a window, where it is no larger than one.

    Raises:
        InputError: see `level_of`. The reason, without the path.
    """
    return windows(base, facts.levels, level_of(facts.levels, unit_of(facts), window), window)


def pictures(raster: Raster, views: Sequence[View], skip_empty: bool) -> Iterator[tuple[View, np.ndarray]]:
    """Each of these views with its stored values [h, w, channels], but for empty windows where they are to be skipped.

    Raises:
        InputError: the data are damaged. The reason, without the path.
    """
    facts = raster.facts
    if views[0].window is None:
        yield views[0], read_raw(raster, views[0])
        return
    for band in bands(views, facts):
        box = _around(band)
        values = read_raw(raster, replace(band[0], window=box))
        for view in band:
            assert view.window is not None
            top, left, height, width = view.window
            top, left = top - box[0], left - box[1]
            own = np.ascontiguousarray(values[top : top + height, left : left + width])
            if not (skip_empty and is_empty(render(own, facts, view))):
                yield view, own


def bands(views: Sequence[View], facts: Facts) -> Iterator[list[View]]:
    """Neighbours of one row of windows that are read at once: as many as `BAND_BYTES` hold, at least one."""
    for _, row in groupby(views, key=lambda view: view.window[0] if view.window else 0):
        band: list[View] = []
        for view in row:
            _, _, height, width = _around([*band, view])
            if band and height * width * facts.channels * facts.dtype.itemsize > BAND_BYTES:
                yield band
                band = []
            band.append(view)
        yield band


def _around(band: Sequence[View]) -> tuple[int, int, int, int]:
    """The box around neighbours of one row."""
    first, last = band[0].window, band[-1].window
    assert first is not None
    assert last is not None
    return first[0], first[1], first[2], last[1] + last[3] - first[1]


def unit_of(facts: Facts) -> tuple[float, float] | None:
    """Height and width of a pixel of level 0, in microns or in units of the map; None where the file says none."""
    if facts.microns is not None:
        return facts.microns
    if facts.geo is None or facts.geo.transform is None:
        return None
    a, b, _, d, e, _ = facts.geo.transform
    return float(np.hypot(b, e)), float(np.hypot(a, d))


def left_out(views: Iterable[tuple[str, str | None]]) -> tuple[int, int, int]:
    """Of pictures (id, view): how many images are cut into windows, into how many, and how many of these lack."""
    found: dict[str, int] = {}
    wanted: dict[str, int] = {}
    for name, text in views:
        view = View.of(text) if text else None
        if view is None or view.window is None or view.whole is None:
            continue
        owner = name.rpartition("/")[0]  # of the window: the image, or a page of it
        found[owner] = found.get(owner, 0) + 1
        if owner not in wanted:
            sides = zip(view.whole, view.window[2:], strict=True)
            wanted[owner] = int(np.prod([len(starts(side, size, view.overlap)) for side, size in sides]))
    return len(found), sum(found.values()), sum(wanted.values()) - sum(found.values())


def is_empty(shown: Shown) -> bool:
    """Whether a window holds no measurement, or nothing but bare background (see above)."""
    pixels = shown.pixels
    if shown.valid is not None:
        pixels = pixels[shown.valid]
        if not len(pixels):
            return True
    flat = pixels.reshape(-1, pixels.shape[-1])
    stray = len(flat) // STRAY
    counts = [np.cumsum(np.bincount(channel, minlength=256)) for channel in np.ascontiguousarray(flat.T)]
    low = np.array([np.searchsorted(count, stray, side="right") for count in counts])
    high = np.array([np.searchsorted(count, len(flat) - stray) for count in counts])
    return bool(((high - low) <= SPREAD).all() and ((low >= BRIGHT).all() or (high <= DARK).all()))

"""Stored values to a picture of eight bits, by what the header declares and by the range of the data set."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from maskmill.errors import InputError
from maskmill.images.raster.facts import Facts, Shown
from maskmill.images.view import View

_AT_ONCE = 1 << 20  # values that become pixels at once: 8 MB of float64


def render(raw: np.ndarray, facts: Facts, view: View) -> Shown:
    """Values [h, w, channels] of a file as the view shows them: uint8 [h, w, 3], or [h, w, N] of N channels where
    the view names other than one or three.

    `view.low` becomes black and `view.high` white, what is beyond is clipped; inverted files the other way round.
    Without them the values of uint8 stay, and those of other integers are taken from 0 to the largest of their type.
    Values of no measurement (nodata, NaN, infinite) are not valid where all shown channels have them; nor is opacity 0
    in files with a place on the Earth.

    Raises:
        InputError: the view names a channel that the file lacks; the reason without the path.
    """
    chosen = facts.colours if view.channels is None else view.channels
    if max(chosen) >= raw.shape[2]:
        raise InputError(f"has no channel {max(chosen)}; its {raw.shape[2]} channels are counted from 0")
    height, width = raw.shape[:2]
    rows = max(1, _AT_ONCE // (width * max(3, len(chosen))))
    if rows >= height:
        return _rendered(raw, facts, view, chosen)
    first = _rendered(raw[:rows], facts, view, chosen)
    pixels = np.empty((height, width, first.pixels.shape[2]), np.uint8)
    valid: np.ndarray | None = None
    for top in range(0, height, rows):
        part = first if top == 0 else _rendered(raw[top : top + rows], facts, view, chosen)
        pixels[top : top + rows] = part.pixels
        if part.valid is not None:
            valid = np.ones((height, width), bool) if valid is None else valid
            valid[top : top + rows] = part.valid
    return Shown(pixels, valid)


def _rendered(raw: np.ndarray, facts: Facts, view: View, chosen: Sequence[int]) -> Shown:
    """As `render`, all rows at once."""
    valid = _valid(raw, facts, chosen)
    if view.channels is None and facts.palette is not None:
        pixels = facts.palette[np.minimum(raw[..., 0].astype(np.int64), len(facts.palette) - 1)]
    else:
        pixels = _scaled(raw[..., list(chosen)], limits(facts, view, len(chosen)))
        if facts.inverted:
            pixels = 255 - pixels
        if view.channels is None and facts.space in ("cmyk", "lab"):
            pixels = _as_rgb(pixels, facts.space)
    if facts.alpha is not None and facts.alpha < raw.shape[2] and facts.alpha not in chosen:
        alpha = raw[..., facts.alpha].astype(np.float32) / full(facts)[1]
        pixels = _over_white(pixels, alpha, facts.premultiplied)
        if facts.geo is not None:
            valid = alpha > 0 if valid is None else valid & (alpha > 0)
    if pixels.shape[2] == 1:
        pixels = np.repeat(pixels, 3, axis=2)
    return Shown(np.ascontiguousarray(pixels), None if valid is None or valid.all() else valid)


def full(facts: Facts) -> tuple[float, float]:
    """What an integer of the file can be, by the bits that its header declares; 0 and 1 for floats."""
    kind = facts.dtype
    if kind.kind == "b":
        return 0.0, 1.0
    if kind.kind not in "iu":
        return 0.0, 1.0
    if facts.bits is not None and kind.kind == "u":
        return 0.0, float(2**facts.bits - 1)
    return float(np.iinfo(kind).min), float(np.iinfo(kind).max)


def limits(facts: Facts, view: View, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """float64 [channels]: what becomes 0, and what becomes 255."""
    low, high = (view.low, view.high) if view.low is not None and view.high is not None else _one(full(facts))
    return _each(low, channels), _each(high, channels)


def _one(pair: tuple[float, float]) -> tuple[tuple[float], tuple[float]]:
    return (pair[0],), (pair[1],)


def _each(values: Sequence[float], channels: int) -> np.ndarray:
    found = np.asarray(values, np.float64)
    return np.broadcast_to(found, channels) if len(found) in (1, channels) else np.resize(found, channels)


def _scaled(values: np.ndarray, bounds: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """uint8 of the same shape; NaN becomes 0."""
    low, high = bounds
    if values.dtype == np.uint8 and (low == 0).all() and (high == 255).all():
        return values
    scaled = (values.astype(np.float64) - low) * (255.0 / np.where(high > low, high - low, 1.0))
    return np.nan_to_num(np.round(np.clip(scaled, 0, 255)), nan=0.0).astype(np.uint8)


def _valid(raw: np.ndarray, facts: Facts, chosen: Sequence[int]) -> np.ndarray | None:
    """Bool [h, w]: some shown channel has a measurement; None where the file declares nothing and all are finite."""
    missing = missing_values(raw, facts, chosen)
    return None if missing is None else np.logical_not(missing.all(axis=2))


def missing_values(raw: np.ndarray, facts: Facts, chosen: Sequence[int]) -> np.ndarray | None:
    """Bool [h, w, channels]: no measurement there; None where all are."""
    values = raw[..., list(chosen)]
    missing = ~np.isfinite(values) if values.dtype.kind == "f" else None
    if facts.nodata is not None:
        given = facts.nodata if isinstance(facts.nodata, tuple) else (facts.nodata,) * facts.channels
        for place, channel in enumerate(chosen):
            value = given[channel] if channel < len(given) else None
            if value is None or not _can_be(value, values.dtype):
                continue
            missing = np.zeros(values.shape, bool) if missing is None else missing
            missing[..., place] |= values[..., place] == np.asarray(value).astype(values.dtype)
    return missing if missing is not None and missing.any() else None


def _can_be(value: float, kind: np.dtype) -> bool:
    """Whether pixels of a type can have a value: -9999 wraps to another one in uint8, where it is of no pixel."""
    if value != value:
        return False
    if kind.kind == "f":
        return True
    if kind.kind == "b":
        return value in (0, 1)
    return float(value).is_integer() and np.iinfo(kind).min <= int(value) <= np.iinfo(kind).max


def _over_white(pixels: np.ndarray, alpha: np.ndarray, premultiplied: bool) -> np.ndarray:
    alpha = np.clip(alpha, 0, 1)[..., None]
    colour = pixels.astype(np.float32)
    laid = colour + 255 * (1 - alpha) if premultiplied else colour * alpha + 255 * (1 - alpha)
    return np.round(np.clip(laid, 0, 255)).astype(np.uint8)


def _as_rgb(pixels: np.ndarray, space: str) -> np.ndarray:
    from PIL import Image

    from maskmill.images.decode import to_rgb

    return to_rgb(Image.fromarray(pixels, mode="CMYK" if space == "cmyk" else "LAB"))

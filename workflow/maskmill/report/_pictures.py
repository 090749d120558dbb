"""Pixels for the page: photos as WebP, masks as tiny indexed PNGs, crops with an outline; all as data URIs."""

from __future__ import annotations

import base64
import io
import math

import numpy as np
from PIL import Image

from maskmill.images.masks import ignore_value

BACKGROUND_ALPHA = 150  # background only dims the photo, clusters cover it
STRIPE = np.array([205, 205, 205], np.uint8)  # ignore is hatched: no colour can be read as a cluster
STRIPE_ALPHA, BETWEEN_ALPHA, PITCH = 110, 60, 7  # faint lines, one cell wide: what is ignored is not what matters
TINTS = np.array(
    [[242, 246, 250], [150, 190, 225], [205, 222, 190], [235, 208, 170], [205, 185, 225], [160, 215, 215]], np.uint8
)  # segments have no class, so they get pale tints that no cluster has


def _uri(image: Image.Image, kind: str, **options: object) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def photo_side(gallery: int) -> int:
    """Longest side of the photos, so that a large gallery stays a file that can be mailed."""
    return 640 if gallery <= 48 else 480 if gallery <= 120 else 320


def photo_uri(image: np.ndarray, longest: int, quality: int = 76) -> str:
    """uint8 [H, W, 3] as a WebP data URI, scaled down to `longest` pixels."""
    height, width = image.shape[:2]
    scale = min(1.0, longest / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return _uri(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS), "WEBP", quality=quality, method=4)


def distinct(colours: np.ndarray) -> np.ndarray:
    """Colours uint8 [k, 3] made pairwise different by the smallest changes, so that a pixel names its cluster."""
    found, seen = colours.copy(), {tuple(STRIPE.tolist())}
    for i in range(len(found)):
        value = int.from_bytes(found[i].tobytes(), "big")
        while tuple(found[i].tolist()) in seen:
            value = (value + 1) % (1 << 24)
            found[i] = list(value.to_bytes(3, "big"))
        seen.add(tuple(found[i].tolist()))
    return found


def mask_uri(mask: np.ndarray, colours: np.ndarray, valid: np.ndarray | None = None) -> str:
    """Mask [h, w] (0 background, 1..k clusters, largest value ignore) as a PNG data URI.

    Args:
        colours: uint8 [k + 1, 3] by mask value. valid: bool [h, w]; what shows no data is empty.
    """
    ignore = mask == ignore_value(mask.dtype)
    values, local = np.unique(np.where(ignore, 0, mask), return_inverse=True)
    table = np.concatenate([colours[values], np.full((len(values), 1), 255, np.uint8)], axis=1)  # [m, 4]
    table[values == 0, 3] = BACKGROUND_ALPHA
    rows, columns = np.indices(mask.shape)
    stripe = (rows + columns) % PITCH == 0
    table = np.concatenate([table, [[*STRIPE, STRIPE_ALPHA], [*colours[0], BETWEEN_ALPHA]]]).astype(np.uint8)
    local = np.where(ignore, np.where(stripe, len(values), len(values) + 1), local.reshape(mask.shape))
    return _indexed(*_emptied(local, table, valid))


def segments_uri(segments: np.ndarray, valid: np.ndarray | None = None) -> str:
    """Segments [h, w] (0 none) as a PNG data URI in pale tints; what is not `valid` [h, w] is empty."""
    table = np.zeros((256, 4), np.uint8)
    table[0] = [20, 22, 26, BACKGROUND_ALPHA]
    table[1:, :3] = TINTS[np.arange(255) % len(TINTS)]
    table[1:, 3] = 255
    return _indexed(*_emptied(segments.astype(np.int64), table[: int(segments.max(initial=0)) + 1], valid))


def _emptied(local: np.ndarray, table: np.ndarray, valid: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Local indices [h, w] and RGBA [m, 4] with one more entry, transparent, where cells are not `valid`."""
    if valid is None:
        return local, table
    return np.where(valid, local, len(table)), np.concatenate([table, np.zeros((1, 4), np.uint8)])


def _indexed(local: np.ndarray, table: np.ndarray) -> str:
    """Local indices [h, w] and RGBA [m, 4] as PNG: one byte a pixel for up to 256 colours."""
    if len(table) > 256:
        return _uri(Image.fromarray(table[local]), "PNG", optimize=True)
    image = Image.fromarray(local.astype(np.uint8))
    image.putpalette(table[:, :3].tobytes(), "RGB")
    return _uri(image, "PNG", optimize=True, transparency=table[:, 3].tobytes())


def window(box: tuple[float, float, float, float], size: tuple[int, int], margin: float) -> tuple[int, int, int, int]:
    """Pixel window (y0, x0, y1, x1), as square as the image allows, around a relative box with a margin.

    Args:
        box: y0, x0, y1, x1 in 0..1. size: (H, W) of the image. margin: share of the box's longer side, every side.
    """
    y0, x0, y1, x1 = (v * s for v, s in zip(box, (size[0], size[1], size[0], size[1]), strict=True))
    side = max(max(y1 - y0, x1 - x0) * (1 + 2 * margin), 16.0)
    found = []
    for low, high, whole in ((y0, y1, size[0]), (x0, x1, size[1])):
        length = min(side, whole)
        start = min(max((low + high - length) / 2, 0), whole - length)
        found.append((math.floor(start), max(math.floor(start) + 1, min(whole, round(start + length)))))
    return found[0][0], found[1][0], found[0][1], found[1][1]


def crop_uri(
    image: np.ndarray, mask: np.ndarray, box: tuple[float, float, float, float], margin: float, side: int = 176
) -> str:
    """The part of a photo around a box, what is outside `mask` dimmed, the mask's outline drawn in white.

    Args:
        image: uint8 [H, W, 3]. mask: bool [h, w] on any grid over the whole image. side: of the crop, in pixels.
    """
    y0, x0, y1, x1 = window(box, (image.shape[0], image.shape[1]), margin)
    scale = side / max(y1 - y0, x1 - x0)
    size = (max(1, round((x1 - x0) * scale)), max(1, round((y1 - y0) * scale)))
    part = np.asarray(Image.fromarray(image[y0:y1, x0:x1]).resize(size, Image.Resampling.LANCZOS)).astype(np.float32)
    rows = _cells(y0, y1, size[1], mask.shape[0] / image.shape[0], mask.shape[0])
    inside = mask[rows[:, None], _cells(x0, x1, size[0], mask.shape[1] / image.shape[1], mask.shape[1])]
    part = np.where(inside[..., None], part, part * 0.66 + 8)
    if not inside.all():
        rim = _eroded(~inside, 0) & ~_eroded(~inside, 1)
        part[rim] = part[rim] * 0.3
        part[inside & ~_eroded(inside, 1)] = 255
    return _uri(Image.fromarray(part.clip(0, 255).astype(np.uint8)), "WEBP", quality=72, method=4)


def _cells(start: int, stop: int, count: int, scale: float, cells: int) -> np.ndarray:
    """Cells of a grid under `count` points that lie evenly between two pixels, int64 [count]."""
    places = (start + (np.arange(count) + 0.5) * (stop - start) / count) * scale
    return np.minimum(places.astype(np.int64), cells - 1)


def _eroded(mask: np.ndarray, steps: int) -> np.ndarray:
    """Mask without the cells within `steps` of its complement (4-neighbours); the image border does not count."""
    for _ in range(steps):
        padded = np.pad(mask, 1, mode="edge")
        mask = mask & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask

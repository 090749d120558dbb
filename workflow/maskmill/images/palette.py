"""Colours of clusters, the same everywhere: PNG palettes, COCO categories, clusters.csv, report, overlays.

Twelve are chosen by eye. The others are drawn one after the other from a grid in OKLCH (Ottosson 2020: equal steps
look equally large), each as far as possible from all before it. Distance is the smallest over normal, protan and
deutan vision, so that colours stay apart for colour-blind readers too, as long as there are not too many. A longer
palette begins with the shorter one: adding clusters repaints none.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np

from maskmill.images.masks import ignore_value, to_size

BACKGROUND = (32, 35, 41)  # dark neutral: index 0
IGNORE = (232, 230, 225)  # light neutral: the largest mask value

# The first twelve as (lightness, chroma, hue): chosen by eye, then moved a little until the closest pair in normal,
# protan and deutan vision lay farthest apart. Most runs need no more, and a search alone finds shrill ones.
FIRST = (
    (0.67, 0.16, 255), (0.78, 0.16, 67), (0.60, 0.10, 188), (0.65, 0.20, 6), (0.81, 0.11, 222), (0.56, 0.19, 301),
    (0.90, 0.17, 108), (0.81, 0.12, 352), (0.50, 0.08, 30), (0.77, 0.16, 146), (0.45, 0.12, 250), (0.63, 0.13, 97),
)  # fmt: skip
SEARCHED = 256  # colours kept apart by distance; beyond, nobody can tell them apart and hues just go round

# Machado, Oliveira, Fernandes 2009: linear sRGB as a protanope and a deuteranope see it.
_PROTAN = ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998))
_DEUTAN = ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881))
_VISIONS = ((np.eye(3), 1.0), (np.array(_PROTAN), 1.6), (np.array(_DEUTAN), 1.6))  # matrix, weight of its distances

_LMS = np.array([[0.4122214708, 0.5363325363, 0.0514459929],
                 [0.2119034982, 0.6806995451, 0.1073969566],
                 [0.0883024619, 0.2817188376, 0.6299787005]])  # fmt: skip
_LAB = np.array([[0.2104542553, 0.7936177850, -0.0040720468],
                 [1.9779984951, -2.4285922050, 0.4505937099],
                 [0.0259040371, 0.7827717662, -0.8086757660]])  # fmt: skip


def palette(k: int) -> np.ndarray:
    """Colours uint8 [k, 3]: index 0 the background's dark neutral, from 1 one distinct colour a cluster.

    For masks of n clusters ask for palette(n + 1). palette(k)[:j] equals palette(j).
    """
    searched = _searched()[: max(0, k - 1)]
    rest = np.arange(len(searched), max(0, k - 1))
    extra = _round_the_hues(rest)
    return np.concatenate([np.array([BACKGROUND], np.uint8), searched, extra])[:k]


def class_palette(count: int, chosen: Mapping[int, str]) -> np.ndarray:
    """`palette` of so many classes, uint8 [count + 1, 3], with the colours that some values have: value -> #rrggbb."""
    colours = palette(count + 1)
    for value, colour in chosen.items():
        colours[value] = list(bytes.fromhex(colour.removeprefix("#")))
    return colours


def png_palette(known: np.ndarray) -> bytes:
    """RGB of the 256 values of an indexed mask: `known` uint8 [k + 1, 3], at most 255 of them; the rest is ignore."""
    colours = np.full((256, 3), IGNORE, np.uint8)
    known = known[:255]
    colours[: len(known)] = known
    return colours.tobytes()


def hexadecimal(colour: np.ndarray | tuple[int, int, int]) -> str:
    """`#rrggbb` of a colour."""
    return "#" + "".join(f"{int(channel):02x}" for channel in colour)


def overlay(
    image: np.ndarray,
    mask: np.ndarray,
    alpha: float = 0.5,
    outline: bool = True,
    background: bool = False,
    colours: np.ndarray | None = None,
) -> np.ndarray:
    """The photo with its mask over it, uint8 [H, W, 3].

    Clusters are tinted and edged with a line of their own full colour; ignored parts are hatched; the background stays
    the photo unless `background` tints it too.

    Args:
        image: uint8 [H, W, 3]. mask: unsigned integers [h, w] of any grid over the same image.
        alpha: opacity of the tint, 0..1. colours: uint8 [k + 1, 3] of the mask's values; default: the palette.
    """
    mask = to_size(mask, (image.shape[0], image.shape[1]))
    ignored = mask == ignore_value(mask.dtype)
    values = np.where(ignored, 0, mask)
    colour = (palette(int(values.max(initial=0)) + 1) if colours is None else colours)[values]  # [H, W, 3]
    opacity = np.where((values > 0) | (background & ~ignored), alpha, 0.0).astype(np.float32)
    opacity[ignored & _hatch(mask.shape)] = alpha
    colour[ignored] = IGNORE
    if outline:
        opacity[_inner_edge(mask, max(1, round(min(mask.shape) / 240))) & (values > 0)] = 1.0
    blended = image + (colour.astype(np.float32) - image) * opacity[..., None]
    return np.round(blended).astype(np.uint8)


def _hatch(shape: tuple[int, ...]) -> np.ndarray:
    """Diagonal stripes [H, W] bool, their width in proportion to the image."""
    width = max(2, round(min(shape) / 120))
    return (np.arange(shape[0])[:, None] + np.arange(shape[1])[None]) // width % 3 == 0


def _inner_edge(mask: np.ndarray, width: int) -> np.ndarray:
    """Pixels [H, W] bool within `width` of another value, 4-neighbourhood; the image's border is no edge."""
    edge = np.zeros(mask.shape, bool)
    for step in range(1, width + 1):
        down = mask[step:] != mask[:-step]
        across = mask[:, step:] != mask[:, :-step]
        edge[step:] |= down
        edge[:-step] |= down
        edge[:, step:] |= across
        edge[:, :-step] |= across
    return edge


@lru_cache(maxsize=1)
def _searched() -> np.ndarray:
    """The first `SEARCHED` cluster colours, uint8 [n, 3]: `FIRST`, then by farthest-point search."""
    first = _srgb(_from_oklch(*np.array(FIRST).T))
    colours = np.concatenate([first, _candidates()])
    views = _views(colours)  # [n, 9]
    taken = _views(np.concatenate([first, np.array([BACKGROUND, IGNORE], np.uint8)]))
    nearest = np.min([_distance(views, one) for one in taken], axis=0)
    chosen = list(range(len(first)))
    while len(chosen) < SEARCHED:
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, _distance(views, views[chosen[-1]]))
    return colours[chosen]


def _views(colours: np.ndarray) -> np.ndarray:
    """OKLab [n, 3 visions * 3] of uint8 colours as normal, protan and deutan eyes see them, each with its weight."""
    linear = _linear(colours)
    return np.concatenate([weight * _oklab(np.clip(linear @ m.T, 0, 1)) for m, weight in _VISIONS], axis=1)


def _distance(views: np.ndarray, one: np.ndarray) -> np.ndarray:
    """Distance [n] of colours [n, 9] to one colour: the smallest of the three visions."""
    return np.linalg.norm((views - one).reshape(-1, 3, 3), axis=2).min(axis=1)


def _candidates() -> np.ndarray:
    """Colours uint8 [n, 3] that sit well on a photo: neither dark nor pale, grey or neon, inside sRGB."""
    grid = np.meshgrid(np.arange(0.48, 0.89, 0.03), np.arange(0.06, 0.19, 0.02), np.arange(0, 360, 6.0), indexing="ij")
    linear = _from_oklch(*(axis.ravel() for axis in grid))
    inside = ((linear >= -1e-4) & (linear <= 1 + 1e-4)).all(axis=1)
    return _srgb(linear[inside])


def _round_the_hues(index: np.ndarray) -> np.ndarray:
    """Colours uint8 [n, 3] for cluster numbers beyond the search: golden-angle hues on three levels."""
    lightness = np.array([0.58, 0.70, 0.82])[index % 3]
    return _srgb(_from_oklch(lightness, np.full(len(index), 0.10), index * 137.50776405 % 360))


def _from_oklch(lightness: np.ndarray, chroma: np.ndarray, hue: np.ndarray) -> np.ndarray:
    """Linear sRGB [n, 3], unclipped, of OKLCH with the hue in degrees."""
    angle = np.deg2rad(hue)
    lab = np.stack([lightness, chroma * np.cos(angle), chroma * np.sin(angle)], axis=-1)
    return ((lab @ np.linalg.inv(_LAB).T) ** 3) @ np.linalg.inv(_LMS).T


def _oklab(linear: np.ndarray) -> np.ndarray:
    """OKLab [n, 3] of linear sRGB."""
    return np.cbrt(linear @ _LMS.T) @ _LAB.T


def _linear(srgb: np.ndarray) -> np.ndarray:
    """Linear sRGB 0..1 of uint8."""
    value = srgb / 255.0
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def _srgb(linear: np.ndarray) -> np.ndarray:
    """uint8 of linear sRGB, clipped."""
    linear = np.clip(linear, 0, 1)
    value = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.round(value * 255).astype(np.uint8)

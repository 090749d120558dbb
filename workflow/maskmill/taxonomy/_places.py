"""The places in the photos that are most typical of each cluster, and crops of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from maskmill.images.decode import resize
from maskmill.images.photos import PhotoFile, read_photo
from maskmill.taxonomy._survey import Map

LEAST = 0.25  # of the model's side: a smaller crop is given more of what surrounds it, as pixels alone say little
View = Literal["box", "masked", "both"]


@dataclass(frozen=True)
class Place:
    """A connected piece of a cluster in an image.

    Attributes:
        cluster: 0..k-1. image: id. grid: (h, w) of the tokens. cells: [n] int32, ascending places in the flat grid.
        weight: the margins of its cells together. rank: place among the cluster's pieces in the image, 0 first.
    """

    cluster: int
    image: str
    grid: tuple[int, int]
    cells: np.ndarray
    weight: int
    rank: int = 0

    @property
    def order(self) -> tuple[int, int, str, int]:
        """The most typical come first, one of each image before a second one of any."""
        return self.rank, -self.weight, self.image, int(self.cells[0])


def typical(found: Iterable[Map], count: int) -> list[Place]:
    """At most `count` places of each cluster, by image and then by cluster; no order of the images matters.

    Args:
        found: cluster and margin maps, as of `_survey.maps`.
    """
    best: dict[int, list[Place]] = {}
    for image_id, values, margins in found:
        for place in pieces(image_id, values, margins, count):
            kept = best.setdefault(place.cluster, [])
            kept.append(place)
            if len(kept) > 4 * count:
                best[place.cluster] = sorted(kept, key=lambda each: each.order)[:count]
    chosen = [each for kept in best.values() for each in sorted(kept, key=lambda each: each.order)[:count]]
    return sorted(chosen, key=lambda each: (each.image, each.cluster, each.rank))


def pieces(image_id: str, values: np.ndarray, margins: np.ndarray, count: int) -> Iterator[Place]:
    """The `count` pieces of each cluster [h, w] with the largest summed margins; cells touch along their sides."""
    from scipy import ndimage

    flat, grid = margins.ravel().astype(np.int64), (values.shape[0], values.shape[1])
    for value in np.unique(values[values > 0]).tolist():
        parts, many = ndimage.label(values == value)
        weights = np.bincount(parts.ravel(), flat, many + 1)[1:].astype(np.int64)
        for rank, part in enumerate(np.argsort(-weights, kind="stable")[:count].tolist()):
            cells = np.flatnonzero(parts.ravel() == part + 1).astype(np.int32)
            yield Place(value - 1, image_id, grid, cells, int(weights[part]), rank)


@dataclass(frozen=True)
class Look:
    """How places are cropped.

    Attributes:
        size: (height, width) of a crop. context: share of the place's side that is added at each end.
        view: with surroundings, without, or both. fill: [3], the colour in place of the surroundings.
    """

    size: tuple[int, int]
    context: float
    view: View
    fill: tuple[int, int, int]


def read_crops(work: tuple[PhotoFile, Sequence[Place]], look: Look) -> list[tuple[int, np.ndarray]]:
    """(cluster, uint8 [H, W, 3]) of the places of one photo, which is decoded once; raises like `read_photo`."""
    row, places = work
    photo = read_photo(row)
    return [(place.cluster, crop) for place in places for crop in crops(photo, place, look)]


def crops(photo: np.ndarray, place: Place, look: Look) -> Iterator[np.ndarray]:
    """The place as a square of the photo, uint8 [H, W, 3]: as it is, with everything else blanked out, or both."""
    y, x, side = square(place, (photo.shape[0], photo.shape[1]), look)
    seen = photo[y : y + side, x : x + side]
    if look.view != "masked":
        yield resize(np.ascontiguousarray(seen), look.size)
    if look.view != "box":
        inside = _inside(place, (photo.shape[0], photo.shape[1]), (y, x, side))
        blank = np.where(inside[..., None], seen, np.array(look.fill, np.uint8)) if inside.any() else seen
        yield resize(np.ascontiguousarray(blank), look.size)


def square(place: Place, photo: tuple[int, int], look: Look) -> tuple[int, int, int]:
    """Top, left and side, in pixels, of the square around a place: its box and its context, within the photo.

    Of a box that is longer than the photo's short side, the middle.
    """
    (tall, wide), (h, w) = photo, place.grid
    rows, columns = np.divmod(place.cells, w)
    top, bottom = rows.min() * tall / h, (rows.max() + 1) * tall / h
    left, right = columns.min() * wide / w, (columns.max() + 1) * wide / w
    side = max(max(bottom - top, right - left) * (1 + 2 * look.context), LEAST * max(look.size))
    pixels = max(1, min(round(side), tall, wide))
    y, x = round((top + bottom - pixels) / 2), round((left + right - pixels) / 2)
    return min(max(y, 0), tall - pixels), min(max(x, 0), wide - pixels), pixels


def _inside(place: Place, photo: tuple[int, int], box: tuple[int, int, int]) -> np.ndarray:
    """Which pixels of the square have their centre in a cell of the place: bool [side, side]."""
    (tall, wide), (h, w), (y, x, side) = photo, place.grid, box
    mask = np.zeros(h * w, bool)
    mask[place.cells] = True
    rows = ((y + np.arange(side) + 0.5) * h / tall).astype(np.int64)
    columns = ((x + np.arange(side) + 0.5) * w / wide).astype(np.int64)
    return np.asarray(mask.reshape(h, w)[rows[:, None], columns[None]])

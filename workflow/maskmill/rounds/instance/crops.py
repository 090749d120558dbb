"""What the instance network sees in training: crops with their instances, copy-paste, a class for each location."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from maskmill.images.instances import VOID, Instances
from maskmill.numerics.sampling import rng
from maskmill.rounds._instance_photos import NEITHER, InstancePhotos, cut_crop, side_of, to_cells
from maskmill.rounds._pyramid import STRIDE, Shape
from maskmill.rounds.instance.network import grid_sizes, locations
from maskmill.rounds.instance.params import Params

COVERED = 0.5  # a pasted object that covers this share of an existing one is not pasted
CENTRE = 0.4  # share of an object's sides around its centre of mass whose locations stand for it
SIZES = (2.0, 7.0)  # cells of a grid: objects from and to this size (root of box area) belong to it


@dataclass(frozen=True)
class Crop:
    """One training example of S pixels a side, in mask cells c = S / 4.

    Attributes:
        pixels: uint8 [S, S, 3]. masks: bool [n, c, c]. void: bool [c, c].
        target: int64 [L], class of every location, NEITHER where the loss does not look.
        owner: int64 [L], the object that a location stands for, or -1.
    """

    pixels: np.ndarray
    masks: np.ndarray
    void: np.ndarray
    target: np.ndarray
    owner: np.ndarray


def read_crops(
    draws: list[tuple[int, int, int]], photos: InstancePhotos, params: Params, seed: int, shape: Shape, micro: int
) -> list[list[Crop]]:
    """Decode, augment and paste the photos of a step, in micro-batches; each draw by the generator of (step, place)."""
    found = [read_crop(photos, image, params, shape, rng(seed, "augment", str(s), str(p))) for s, p, image in draws]
    return [found[a : a + micro] for a in range(0, len(found), micro)]


def read_crop(photos: InstancePhotos, image: int, params: Params, shape: Shape, generator: np.random.Generator) -> Crop:
    """One crop; with the chance `copy_paste` objects of another photo lie over it."""
    return finished(*drawn(photos, image, params, shape, generator), shape)


def drawn(
    photos: InstancePhotos, image: int, params: Params, shape: Shape, generator: np.random.Generator
) -> tuple[np.ndarray, Instances]:
    """Pixels of one crop, and its instances and void at the pixels."""
    side = side_of(params, shape)
    pixels, found = cut_crop(photos, image, side, params, generator)
    if generator.random() < params.copy_paste:
        partner = int(generator.integers(len(photos.rows)))
        small = max(1, round(side * generator.uniform(*params.copy_scale)))
        other = cut_crop(photos, partner, small, params, generator)
        pixels, found = paste(pixels, found, *other, generator)
    return pixels, found


def finished(pixels: np.ndarray, found: Instances, shape: Shape) -> Crop:
    """What is learnt of a crop's pixels and instances."""
    objects, void = found.take(found.labels != VOID), found.masks[found.labels == VOID].any(axis=0)
    masks = to_cells(objects.masks)
    visible = masks.any(axis=(1, 2))
    masks, labels = masks[visible], objects.labels[visible]
    void = to_cells(void[None])[0] & ~masks.any(axis=0)
    return Crop(pixels, masks, void, *assign(masks, labels, void, pixels.shape[0], shape))


def paste(
    pixels: np.ndarray, found: Instances, source: np.ndarray, objects: Instances, generator: np.random.Generator
) -> tuple[np.ndarray, Instances]:
    """Lay some objects of a smaller picture over a picture, at a random place (CutLER's copy-paste).

    Of k objects a number from 1 to k - 1 is drawn (1 of one). An object that would cover half of an existing one or
    more is left out; what is pasted is carved out of the existing ones, and those of which nothing is left are gone.
    Void is carved as well, but shields nothing.

    Args:
        pixels: [S, S, 3] with `found` [n, S, S]. source: [s, s, 3] with `objects` [m, s, s], s <= S.
    """
    whole, part = pixels.shape[0], source.shape[0]
    objects = objects.take(objects.labels != VOID)
    y, x = (int(generator.integers(whole - part + 1)) for _ in range(2))
    if not len(objects):
        return pixels, found
    count = int(generator.integers(1, max(2, len(objects))))
    chosen = objects.take(np.sort(generator.permutation(len(objects))[:count]))
    masks = np.zeros((count, whole, whole), bool)
    masks[:, y : y + part, x : x + part] = chosen.masks
    real = found.masks[found.labels != VOID]
    both = np.array([(real & mask).sum(axis=(1, 2)) for mask in masks]).reshape(count, len(real))
    hides = np.asarray((both >= COVERED * real.sum(axis=(1, 2))).any(axis=1))
    masks, chosen = masks[~hides], chosen.take(~hides)
    over = masks.any(axis=0)
    carved = Instances(found.masks & ~over, found.labels, found.scores)
    carved = carved.take(np.asarray(carved.masks.any(axis=(1, 2))))
    canvas = pixels.copy()
    place = canvas[y : y + part, x : x + part]
    inside = over[y : y + part, x : x + part]
    place[inside] = source[inside]
    return canvas, carved + Instances(masks, chosen.labels, chosen.scores)


def assign(
    masks: np.ndarray, labels: np.ndarray, void: np.ndarray, side: int, shape: Shape
) -> tuple[np.ndarray, np.ndarray]:
    """Class and owner of every location, both int64 [L]; see `Crop`.

    An object belongs to the grids whose cells it spans 2 to 7 times (the finest takes all smaller, the coarsest all
    larger ones). There its locations are those whose centre lies in the box of 0.4 times its own sides around its
    centre of mass, at most three a side, and always the one that holds this centre. Where two objects claim a
    location, the smaller one has it.
    """
    strides = shape.strides
    sizes = grid_sizes(side, side, strides)
    places = locations(sizes, strides).numpy()
    target = np.zeros(len(places), np.int64)
    inside = (places[:, :2].astype(np.int64)).clip(0, void.shape[0] - 1)
    target[void[inside[:, 0], inside[:, 1]]] = NEITHER
    owner = np.full(len(places), -1, np.int64)
    areas = masks.sum(axis=(1, 2))
    for i in np.argsort(-areas, kind="stable"):  # the smallest last
        start = 0
        for level, ((rows, columns), stride) in enumerate(zip(sizes, strides, strict=True)):
            if _belongs(masks[i], level, len(strides), stride / STRIDE):
                for y, x in _cells(masks[i], rows, columns, stride / STRIDE):
                    target[start + y * columns + x] = labels[i]
                    owner[start + y * columns + x] = i
            start += rows * columns
    return target, owner


def _belongs(mask: np.ndarray, level: int, levels: int, cell: float) -> bool:
    """Whether an object belongs to a grid whose cells are `cell` mask cells a side."""
    y, x = np.nonzero(mask)
    size = float(np.sqrt((np.ptp(y) + 1.0) * (np.ptp(x) + 1.0))) / cell
    return (level == 0 or size >= SIZES[0]) and (level == levels - 1 or size < SIZES[1])


def _cells(mask: np.ndarray, rows: int, columns: int, cell: float) -> Iterator[tuple[int, int]]:
    """Row and column of the locations that stand for an object on one grid."""
    spans = []
    for values, count in zip(np.nonzero(mask), (rows, columns), strict=True):
        centre, half = values.mean() + 0.5, CENTRE * (np.ptp(values) + 1.0) / 2
        own = min(int(centre / cell), count - 1)
        low = max(own - 1, int(np.ceil((centre - half) / cell - 0.5)), 0)
        high = min(own + 1, int(np.floor((centre + half) / cell - 0.5)), count - 1)
        spans.append(range(min(low, own), max(high, own) + 1))
    return ((y, x) for y in spans[0] for x in spans[1])

"""What the network sees in training: crops with their instances, a class for each cell, neighbours of one colour."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from maskmill.images.instances import VOID
from maskmill.numerics.sampling import rng
from maskmill.rounds._instance_photos import NEITHER, InstancePhotos, cut_crop, side_of, to_cells
from maskmill.rounds._pyramid import STRIDE, Shape
from maskmill.rounds.freesolo.losses import alike_neighbours
from maskmill.rounds.freesolo.params import Params

CENTRE = 0.2  # share of an object's sides around its centre of mass whose cells stand for it (sigma)
RANGES = ((0, 1 / 8), (1 / 16, 1 / 4), (1 / 8, 1 / 2), (1 / 4, 1), (1 / 2, np.inf))  # of each grid: root of box area
# as a share of the crop's side; published in pixels of photos of 640 to 800, here over 768


@dataclass(frozen=True)
class Crop:
    """One training example of S pixels a side, in mask cells c = S / 4.

    Attributes:
        pixels: uint8 [S, S, 3]. masks: bool [n, c, c]. void: bool [c, c]. alike: bool [8, c, c], see
            `maskmill.rounds.freesolo.losses.alike_neighbours`. step: of the training.
        target: int64 [L], class of every cell of the grids, NEITHER where the loss does not look.
        owner: int64 [L], the object that a cell stands for, or -1.
    """

    pixels: np.ndarray
    masks: np.ndarray
    void: np.ndarray
    alike: np.ndarray
    step: int
    target: np.ndarray
    owner: np.ndarray


def read_crops(
    draws: list[tuple[int, int, int]], photos: InstancePhotos, params: Params, seed: int, shape: Shape, micro: int
) -> list[list[Crop]]:
    """Decode and augment the photos of a step, in micro-batches; each draw by the generator of (step, place)."""
    found = []
    for step, place, image in draws:
        generator = rng(seed, "augment", str(step), str(place))
        found.append(read_crop(photos, image, step, params, shape, generator))
    return [found[a : a + micro] for a in range(0, len(found), micro)]


def read_crop(
    photos: InstancePhotos, image: int, step: int, params: Params, shape: Shape, generator: np.random.Generator
) -> Crop:
    """One crop."""
    side = side_of(params, shape)
    pixels, found = cut_crop(photos, image, side, params, generator)
    objects, void = found.take(found.labels != VOID), found.masks[found.labels == VOID].any(axis=0)
    masks = to_cells(objects.masks)
    visible = masks.any(axis=(1, 2))
    masks, labels = masks[visible], objects.labels[visible]
    void = to_cells(void[None])[0] & ~masks.any(axis=0)
    cells = side // STRIDE
    small = pixels.reshape(cells, STRIDE, cells, STRIDE, 3).mean(axis=(1, 3)).astype(np.uint8)
    alike = alike_neighbours(small, ~void, params.alike)
    return Crop(pixels, masks, void, alike, step, *assign(masks, labels, void, params.grids))


def assign(masks: np.ndarray, labels: np.ndarray, void: np.ndarray, grids: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Class and owner of every cell of the grids, both int64 [L]; see `Crop`.

    An object belongs to the grids in whose range of sizes it lies, two as a rule. There its cells are those that the
    box of 0.2 times its own sides around its centre of mass touches, at most three a side. Where two objects claim a
    cell, the smaller one has it.
    """
    targets, owners = [], []
    areas, side = masks.sum(axis=(1, 2)), void.shape[0]
    order = np.argsort(-areas, kind="stable")  # the smallest last
    for cells, (low, high) in zip(grids, RANGES, strict=True):
        at = ((np.arange(cells) + 0.5) * side / cells).astype(np.int64)
        target = np.where(void[at[:, None], at], NEITHER, 0).astype(np.int64)
        owner = np.full((cells, cells), -1, np.int64)
        for i in order:
            y, x = np.nonzero(masks[i])
            if low <= np.sqrt((np.ptp(y) + 1) * (np.ptp(x) + 1)) / side <= high:
                where = _span(y, cells, side), _span(x, cells, side)
                target[where], owner[where] = labels[i], i
        targets.append(target.ravel())
        owners.append(owner.ravel())
    return np.concatenate(targets), np.concatenate(owners)


def _span(values: np.ndarray, cells: int, side: int) -> slice:
    """Cells of one axis that stand for an object with these rows (or columns) of `side`."""
    centre, half = values.mean() + 0.5, CENTRE * (np.ptp(values) + 1) / 2
    own, first, last = (int(place * cells / side) for place in (centre, max(0.0, centre - half), centre + half))
    return slice(max(own - 1, first), min(own + 1, last, cells - 1) + 1)

"""What the instance network sees in training: crops with their instances, copy-paste, a class for each location."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from maskmill.errors import ConfigError, NumericsError, StoreError
from maskmill.images.crops import cut_picture, draw_box
from maskmill.images.instances import VOID, Instances, InstanceStore
from maskmill.images.photos import read_photo
from maskmill.numerics.sampling import rng
from maskmill.rounds._augment import recolour
from maskmill.rounds._masks import Masks
from maskmill.rounds._training import Sources
from maskmill.rounds.instance.network import STRIDE, Shape, grid_sizes, locations
from maskmill.rounds.instance.params import Params
from maskmill.store.manifest import Row, read_manifest

COVERED = 0.5  # a pasted object that covers this share of an existing one is not pasted
CENTRE = 0.4  # share of an object's sides around its centre of mass whose locations stand for it
SIZES = (2.0, 7.0)  # cells of a grid: objects from and to this size (root of box area) belong to it
LEAST = 0.5  # share of a mask cell that an object covers where the cell is the object's
NEITHER = -1  # class of a location that is neither object nor background


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


class InstancePhotos:
    """The photos that have instances, by position in the sorted ids.

    Attributes:
        rows: of the manifest. weights: file of the encoder's weights. counts: instances of each class, [classes];
            place 0 counts the photos, which all have background.
    """

    def __init__(self, sources: Sources, masks: Masks, params: Params, classes: int) -> None:
        if sources.manifest is None or sources.weights is None:
            raise ConfigError("rounds.student: instance sees photos; give --manifest and --weights")
        if not sources.instances:
            raise ConfigError("rounds.student: instance learns from instances; give --instances")
        self.weights, self.counts = sources.weights, np.zeros(classes, np.int64)
        self._stores: dict[str, InstanceStore] = {}
        self._held: dict[str, Instances] = {}
        room, wanted = params.cache_mib << 20, set(masks.ids)
        for store in (InstanceStore(path) for path in sources.instances):
            for image_id, found in store.images():
                known = found.labels[found.labels != VOID]
                if image_id not in wanted or not len(known):
                    continue
                if known.max() >= classes:
                    raise StoreError(f"{store.path}: holds class {known.max()} of {classes - 1} clusters; run it again")
                self.counts += np.bincount(known, minlength=classes)
                self._stores[image_id] = store
                room -= found.masks.nbytes
                if room >= 0:
                    self._held[image_id] = found
        if not self._stores:
            folder = Path(sources.instances[0]).parent
            raise NumericsError(
                f"{folder}: no photo has an instance, there is nothing to learn from; raise paint.keep_closest, "
                "loosen the cut (cut.tau), or lower rounds.keep_score"
            )
        manifest = read_manifest(sources.manifest)
        self.rows: list[Row] = [manifest.row(image_id) for image_id in sorted(self._stores)]
        self.counts[0] = len(self.rows)
        self._row = {row.id: row for row in (manifest.row(image_id) for image_id in masks.ids)}

    def view(self, image_id: str) -> np.ndarray:
        """The photo, uint8 RGB [H, W, 3]."""
        return read_photo(self._row[image_id])

    def instances(self, image_id: str) -> Instances:
        """What the photo's instances are taken for."""
        return self._held[image_id] if image_id in self._held else self._stores[image_id][image_id]


def read_crops(
    draws: list[tuple[int, int, int]], photos: InstancePhotos, params: Params, seed: int, shape: Shape, micro: int
) -> list[list[Crop]]:
    """Decode, augment and paste the photos of a step, in micro-batches; each draw by the generator of (step, place)."""
    found = [read_crop(photos, image, params, shape, rng(seed, "augment", str(s), str(p))) for s, p, image in draws]
    return [found[a : a + micro] for a in range(0, len(found), micro)]


def side_of(params: Params, shape: Shape) -> int:
    """Pixels a side of a crop: the nearest whole number of patches."""
    return max(1, round(params.crop / shape.multiple)) * shape.multiple


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


def cut_crop(
    photos: InstancePhotos, image: int, side: int, params: Params, generator: np.random.Generator
) -> tuple[np.ndarray, Instances]:
    """Pixels uint8 [side, side, 3] of a random box of a photo, flipped by chance, and its instances at the pixels."""
    row = photos.rows[image]
    photo, found = read_photo(row), photos.instances(row.id)
    box = draw_box(photo.shape[0], photo.shape[1], params.scale, generator)
    picture, masks = cut_picture(photo, box, side), cut_masks(found.masks, box, side)
    if generator.random() < 0.5:
        picture, masks = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT), masks[:, :, ::-1]
    pixels = np.array(recolour(picture, params, generator))
    seen = masks.any(axis=(1, 2))
    return pixels, Instances(masks[seen], found.labels[seen], found.scores[seen])


def cut_masks(masks: np.ndarray, box: tuple[float, float, float, float], side: int) -> np.ndarray:
    """Masks [n, h, w] at the centres of side x side parts of the box."""
    y0, y1, x0, x1 = box
    at = (np.arange(side) + 0.5) / side
    rows = ((y0 + at * (y1 - y0)) * masks.shape[1]).astype(np.int64).clip(0, masks.shape[1] - 1)
    columns = ((x0 + at * (x1 - x0)) * masks.shape[2]).astype(np.int64).clip(0, masks.shape[2] - 1)
    return masks[:, rows[:, None], columns[None]]


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


def to_cells(masks: np.ndarray) -> np.ndarray:
    """Masks [n, S, S] of pixels -> [n, S / 4, S / 4]: cells that they cover at least half of."""
    n, side, _ = masks.shape
    cells = side // STRIDE
    return masks.reshape(n, cells, STRIDE, cells, STRIDE).mean(axis=(2, 4)) >= LEAST


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

"""The engine of the poolings on crops: photos decoded once and ahead, crops of equal size batched over a shard."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from maskmill.backbones import mean_colour
from maskmill.images.photos import read_ahead, read_filled, reader_count
from maskmill.progress import track
from maskmill.regions import CropPooling
from maskmill.regions.crop_cls import Params, cut_crops
from maskmill.store.manifest import Row

if TYPE_CHECKING:
    from maskmill.backbones import Dense
    from maskmill.recipe.model import Stage
    from maskmill.recipe.sections import Regions

WAITING = 2**22  # pixels a crop of a batch that may wait for others of its size


@dataclass(frozen=True)
class ImageCrops:
    """One image with its segments [h, w] and their ids [r], ascending and not empty."""

    row: Row
    segments: np.ndarray
    ids: np.ndarray


def describe(
    images: list[ImageCrops], backbone: Dense, stage: Stage[Regions], batch_size: int, threads: int
) -> dict[str, np.ndarray]:
    """The vector of every segment's crop: image id -> [r, d] float32, rows as `ids`.

    The method of the stage, a `CropPooling`, says what it is.

    Every photo is decoded once. A vector does not depend on the crops that share its batch, nor on the shard, but for
    the rounding of the last digits.

    Raises:
        InputError: a photo changed since the inputs were checked.
    """
    method: CropPooling = stage.module
    read = partial(
        read_crops, multiple=backbone.multiple, params=stage.params, fill=mean_colour(backbone),
        masked=method.TRAITS.masked,
    )  # fmt: skip
    vectors = {image.row.id: np.zeros((len(image.ids), backbone.depth), np.float32) for image in images}
    workers = reader_count(len(images), threads, backbone.device)
    crops = (
        ((image.row.id, i), crop) for image, found in read_ahead(images, read, workers) for i, crop in enumerate(found)
    )
    total = sum(len(image.ids) for image in images)
    for (image_id, i), vector in track(_run(batched(crops, batch_size), backbone, method), total, "regions: crop"):
        vectors[image_id][i] = vector
    return vectors


def read_crops(
    image: ImageCrops, multiple: int, params: Params, fill: np.ndarray, masked: bool = False
) -> list[np.ndarray]:
    """Decode a photo and cut out its segments, uint8 [H, W, 3] (masked: 4) each; raises like `read_photo`.

    Pixels without data get the colour `fill`.
    """
    return cut_crops(read_filled(image.row, fill).pixels, image.segments, image.ids, multiple, params, fill, masked)


Key = tuple[str, int]  # image id, place among its segments


def batched(
    crops: Iterable[tuple[Key, np.ndarray]], batch_size: int, room: int | None = None
) -> Iterator[tuple[list[Key], np.ndarray]]:
    """Batches of at most `batch_size` crops of one size, [b, H, W, 3], as soon as they are full.

    Crops wait for others of their size. When more than `room` pixels wait (default: 4 megapixels a crop of a batch),
    the size with the most pixels goes as it is, so memory depends on the batch size and not on the shard.
    """
    room = batch_size * WAITING if room is None else room
    waiting: dict[tuple[int, ...], list[tuple[Key, np.ndarray]]] = {}
    pixels = 0
    for key, crop in crops:
        size = crop.shape[:2]
        waiting.setdefault(size, []).append((key, crop))
        pixels += _pixels([(key, crop)])
        full = len(waiting[size]) >= batch_size
        if full or pixels > room:  # one group is enough: the largest holds at least what just came
            group = waiting.pop(size if full else max(waiting, key=lambda s: _pixels(waiting[s])))
            pixels -= _pixels(group)
            yield _stack(group)
    for group in waiting.values():
        yield _stack(group)


def _pixels(group: list[tuple[Key, np.ndarray]]) -> int:
    return sum(crop.shape[0] * crop.shape[1] for _, crop in group)


def _stack(group: list[tuple[Key, np.ndarray]]) -> tuple[list[Key], np.ndarray]:
    return [key for key, _ in group], np.stack([crop for _, crop in group])


def _run(
    batches: Iterable[tuple[list[Key], np.ndarray]], backbone: Dense, method: CropPooling
) -> Iterator[tuple[Key, np.ndarray]]:
    """(key, vector [d]) of every crop [H, W, 3], or [H, W, 4] whose fourth channel says where its segment is."""
    import torch

    for keys, images in batches:
        tokens, cls = backbone.forward(torch.from_numpy(np.ascontiguousarray(images[..., :3])))
        inside = images[..., 3] if images.shape[3] == 4 else None
        yield from zip(keys, method.vectors(tokens, cls, inside), strict=True)  # [b, d]

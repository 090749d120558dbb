"""The labelled images of source `examples`: their vectors, and what share of each vector's pixels has which class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from maskmill.errors import InputError, nearest
from maskmill.images.labels import OUTSIDE, checked_label, core_ids
from maskmill.images.masks import to_size
from maskmill.images.sample import read_images
from maskmill.images.stems import match_stems
from maskmill.images.view import View
from maskmill.store.manifest import Manifest, Row, read_manifest
from maskmill.store.ragged import Ragged
from maskmill.taxonomy import Clustered
from maskmill.taxonomy._survey import region_rows

MOST = 2000  # labelled images, whose vectors and labels are in memory together


@dataclass(frozen=True)
class Labelled:
    """What a few labelled images say.

    Attributes:
        ids: of the images, sorted. classes: their label ids, ascending, without those that are void.
        vectors: [n, d] floats as they are stored, of their tokens or regions.
        shares: [n, C] float32, of the pixels of each; void pixels are missing, so that a row sums to 1 or less.
        images: [n] int64, the place in `ids` of the image that a vector is of.
        columns: {image id: [H, W] int16}, the place in `classes` of every pixel, -1 for void.
        owners: of the images, ids of what they are cut from; none where no image is.
    """

    ids: tuple[str, ...]
    classes: tuple[int, ...]
    vectors: np.ndarray
    shares: np.ndarray
    images: np.ndarray
    columns: Mapping[str, np.ndarray]
    owners: tuple[str, ...] = ()

    @property
    def files(self) -> np.ndarray:
        """Of each vector the file that its image is of [n] int64: 0, 1, ... in the order of the ids.

        Windows, pages and composites of one file show the same pixels, or neighbours: they are no independent cases.
        """
        order = {owner: i for i, owner in enumerate(dict.fromkeys(self.owners or self.ids))}
        return np.array([order[owner] for owner in self.owners or self.ids], np.int64)[self.images]


def chosen_labels(manifest: Manifest, folder: str, images: str | None) -> dict[str, str]:
    """{image id: label file} of the examples, sorted by id.

    Args:
        folder: of label images with the names of images of the run; windows, pages and composites share the label of
            their image. images: a file of image ids, one a line; only these are examples. The id of an image that is
            cut stands for all that is cut from it.

    Raises:
        InputError: no label fits any image, or an image of the list is not in the run or has no label.
    """
    owners = {row.id: row.owner for row in manifest.rows}
    files = match_stems({image_id: image_id for image_id in owners.values()}, Path(folder), "taxonomy.labels")
    found = {image_id: files[owner] for image_id, owner in owners.items() if owner in files}
    if images is not None:
        wanted = [line.strip() for line in _lines(images) if line.strip()]
        known = {*owners, *owners.values()}
        for image_id in wanted:
            if image_id not in found and image_id not in files:
                why = "has no label in taxonomy.labels" if image_id in known else "is no image of the run"
                near = nearest(image_id, sorted(found)) if len(found) <= 10_000 else ""
                raise InputError(f"taxonomy.images: {images}: {image_id!r} {why}{near}")
        if not wanted:
            raise InputError(f"taxonomy.images: {images}: names no image; write one id a line")
        chosen = set(wanted)
        found = {i: file for i, file in found.items() if i in chosen or owners[i] in chosen}
    return dict(sorted(found.items()))


def _lines(file: str) -> list[str]:
    try:
        return Path(file).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"taxonomy.images: {file}: cannot be read ({error}); give a text file of ids") from None


def read(labels: Mapping[str, str], void: Sequence[int], given: Clustered) -> Labelled:
    """Vectors and class shares of the labelled images.

    Args:
        labels: {image id: label file}. void: label ids that say nothing.

    Raises:
        InputError: a label cannot be used, or all of them are void.
    """
    manifest = read_manifest(given.manifest)
    if len(labels) > MOST:
        raise InputError(
            f"taxonomy.labels: {len(labels)} images of the run have a label, which is more than a few ({MOST}); name "
            "the ones to learn from in taxonomy.images"
        )
    masks = {image_id: label_of(file, manifest.row(image_id)) for image_id, file in labels.items()}
    views = {manifest.row(image_id).view for image_id in labels}
    outside = {OUTSIDE} if any(view and View.of(view).window for view in views) else set()
    classes = sorted({int(i) for mask in masks.values() for i in np.unique(mask)} - set(void) - outside)
    if not classes:
        raise InputError(f"taxonomy.labels: every pixel of {len(masks)} labels is void ({list(void)}); label others")
    column = np.full(1 + max(int(mask.max()) for mask in masks.values()), -1, np.int16)
    column[classes] = np.arange(len(classes))
    columns = {image_id: column[mask] for image_id, mask in masks.items()}
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for image_id, vectors, cells in images_of(set(labels), given):
        found[image_id] = vectors, shares_of(cells, columns[image_id], len(vectors), len(classes))
    ids = tuple(sorted(found))
    return Labelled(
        ids,
        tuple(classes),
        np.concatenate([found[image_id][0] for image_id in ids]),
        np.concatenate([found[image_id][1] for image_id in ids]),
        np.concatenate([np.full(len(found[image_id][0]), i) for i, image_id in enumerate(ids)]),
        columns,
        tuple(manifest.row(image_id).owner for image_id in ids),
    )


def label_of(file: str, row: Row) -> np.ndarray:
    """Label ids uint16 [H, W] of an image; of a window with OUTSIDE where the pixels are not of its core."""
    ids = checked_label(file, row.path, row.height, row.width, row.view)[0]
    return core_ids(ids, file, row.view).astype(np.uint16)


def shares_of(cells: np.ndarray, columns: np.ndarray, vectors: int, classes: int) -> np.ndarray:
    """Shares [vectors, classes] float32 of the pixels of each vector that have each class.

    Args:
        cells: [h, w] int64, the vector 0..vectors-1 that each cell belongs to, -1 for none; of any size.
        columns: [H, W] integers, the class 0..classes-1 of each pixel, -1 for void.
    """
    at = to_size(cells, (columns.shape[0], columns.shape[1])).ravel()
    named = (at >= 0) & (columns.ravel() >= 0)
    pixels = np.bincount(at[at >= 0], minlength=vectors)
    place = at[named] * classes + columns.ravel()[named]
    counts = np.bincount(place, minlength=vectors * classes)
    return np.asarray(counts.reshape(vectors, classes) / np.maximum(pixels, 1)[:, None], np.float32)


def images_of(wanted: set[str], given: Clustered) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """(id, vectors [n, d], the vector of every cell [h, w], -1 for none) of some images, shard by shard."""
    for shard in given.shards:
        store = Ragged(shard.vectors)
        mine = [image_id for image_id in store.ids if image_id in wanted]
        if not mine:
            continue
        if shard.segments is None or shard.table is None:
            for image_id in mine:
                vectors = store[image_id]  # [h, w, d]
                h, w, depth = vectors.shape
                cells, valid = np.arange(h * w).reshape(h, w), store.valid(image_id)
                yield image_id, vectors.reshape(-1, depth), cells if valid is None else np.where(valid, cells, -1)
            continue
        rows = region_rows(shard.table)
        for image_id, segments in read_images(Ragged(shard.segments, "segments"), mine).items():
            place = np.full(256, -1, np.int64)
            regions = list(rows.get(image_id, ()))
            place[regions] = np.arange(len(regions))
            yield image_id, store[image_id].reshape(len(regions), store.depth or 1), place[segments]

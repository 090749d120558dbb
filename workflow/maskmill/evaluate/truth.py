"""Labelled objects of an image: from instance id images, or else the connected parts of each foreground class."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from maskmill.errors import InputError
from maskmill.evaluate.confusion import LABELS, at_frame, frame
from maskmill.evaluate.labelled import digest, read_label
from maskmill.images.decode import MAX_PIXELS, load_label
from maskmill.images.labels import checked_label
from maskmill.images.stems import match_stems
from maskmill.recipe.scoring import Evaluate
from maskmill.store.manifest import Row

EIGHT = np.ones((3, 3), bool)  # neighbours of a pixel: sides and corners


@dataclass(frozen=True)
class Truth:
    """Objects of one image.

    Attributes:
        objects: int32 [H, W], 0 = background or void, else 1..count, each with at least one pixel.
        void: bool [H, W], pixels that never count.
    """

    objects: np.ndarray
    void: np.ndarray
    count: int

    def without(self, valid: np.ndarray | None) -> Truth:
        """What is not `valid` [H, W] is void; an object of which nothing is left is gone."""
        if valid is None:
            return self
        objects = _consecutive(np.where(valid, self.objects, 0))
        return Truth(objects, self.void | ~valid, int(objects.max(initial=0)))


def truth_of(
    label: np.ndarray, instances: np.ndarray | None, foreground: np.ndarray, void: np.ndarray, min_area: float
) -> Truth:
    """Objects of a label [H, W] int32.

    Args:
        instances: instance ids [H, W] (0 = none, at most 65535), or None: connected parts of each foreground class.
        foreground, void: bool [65536] by label id; an id is at most one of them.
        min_area: objects below this share of all pixels become void.
    """
    outside = void[label]
    if instances is None:
        objects = components(np.where(foreground[label], label + 1, 0))
    else:
        objects = _consecutive(np.where(foreground[label], instances, 0))
    counts = np.bincount(objects.ravel())
    small = counts < min_area * label.size
    small[0] = False
    if small.any():
        outside |= small[objects]
        objects = _consecutive(np.where(small[objects], 0, objects))
    return Truth(objects, outside, int(objects.max(initial=0)))


def components(classes: np.ndarray) -> np.ndarray:
    """Connected parts (8 neighbours) of each value above 0 of classes [H, W]: int32 [H, W], 1, 2, ... and 0."""
    from scipy import ndimage

    found = np.zeros(classes.shape, np.int32)
    count = 0
    for value in np.flatnonzero(np.bincount(classes.ravel())):
        if value:
            parts, more = ndimage.label(classes == value, structure=EIGHT)
            found = np.where(parts > 0, parts + count, found)
            count += more
    return found.astype(np.int32)


def _consecutive(ids: np.ndarray) -> np.ndarray:
    """Ids [H, W] >= 0 renumbered 1, 2, ... in their order, 0 stays: int32 [H, W]."""
    present = np.bincount(ids.ravel()) > 0
    present[0] = False
    return np.where(present, np.cumsum(present), 0).astype(np.int32)[ids]


class TruthReader:
    """Reads the objects of labelled images, by image id, and remembers the hashes of what was read.

    Attributes:
        labels, instances: {image id: digest of its pixels} of what was read so far.

    Raises:
        InputError: `evaluate.objects.instances` is no folder, or has no file for a labelled image.
    """

    def __init__(self, settings: Evaluate, rows: Mapping[str, Row], images: Iterable[Row]) -> None:
        """rows: the labelled images; images: all of the run."""
        assert settings.objects is not None
        self.settings, self.objects = settings, settings.objects
        self.labels: dict[str, str] = {}
        self.instances: dict[str, str] = {}
        self._void = _table(settings.ignore)
        if settings.classes is not None:
            self._void |= ~_table(settings.classes)
        wanted = self.objects.foreground
        if wanted is not None:
            chosen = _table(wanted)
        else:  # instance images say what is an object; without them every class but 0 does
            chosen = np.ones(LABELS, bool)
            chosen[0] = self.objects.instances is not None
        self._foreground = chosen & ~self._void
        self._files = instance_files(self.objects.instances, rows, images)

    def outside(self, label: np.ndarray) -> np.ndarray:
        """Which pixels of a label [H, W] have an id that is void: bool [H, W]."""
        return self._void[label]

    def read(self, row: Row, label: np.ndarray | None = None) -> Truth:
        """Objects of one image at the size of `evaluate.size`; label: its label, where it was read before.

        Objects are found at the label's own size and then looked up at the scored size.

        Raises:
            InputError: a label or instance image is unreadable or not of the image's size; names the file.
        """
        label = read_label(row) if label is None else label
        self.labels[row.id] = digest(label)
        instances = None
        if self._files is not None:
            instances = read_instances(self._files[row.id], row)
            self.instances[row.id] = digest(instances)
        found = truth_of(label, instances, self._foreground, self._void, self.objects.min_area)
        if self.settings.size is None:
            return found
        shape, window = frame(row.height, row.width, self.settings.size)
        objects = _consecutive(at_frame(found.objects, shape, window))
        return Truth(objects, at_frame(found.void, shape, window), int(objects.max(initial=0)))


def _table(ids: list[int]) -> np.ndarray:
    """True at the ids: bool [65536]."""
    table = np.zeros(LABELS, bool)
    table[[i for i in ids if 0 <= i < LABELS]] = True
    return table


def instance_files(
    folder: str | None, rows: Mapping[str, Row], images: Iterable[Row], key: str = "evaluate.objects.instances"
) -> dict[str, str] | None:
    """{image id: instance file} of the labelled images: by relative path, else by a stem that is unique in both.

    Unique among all images of the run, labelled or not: else a file could be taken for another image's. Windows, pages
    and composites share the file of their image, as they share its label. `key` names the setting, for messages.

    Raises:
        InputError: no such folder, or an image without file; names both.
    """
    if folder is None:
        return None
    owners = {row.id: row.owner for row in images}
    files = match_stems({image_id: image_id for image_id in owners.values()}, Path(folder), key, "instance")
    found = {image_id: files[owner] for image_id, owner in owners.items() if owner in files}
    missing = sorted(set(rows) - set(found))
    if missing:
        first = missing[0]
        raise InputError(
            f"{key}: no file of {folder!r} fits {len(missing)} of {len(rows)} labelled images, the first is "
            f"{first!r}; add {rows[first].owner}.png, or leave instances out to take connected parts of the labels"
        )
    return found


def read_instances(path: str, row: Row) -> np.ndarray:
    """Instance ids int32 [height, width] of an image, 0 = none.

    Raises:
        InputError: unreadable, not of the image's size, or ids outside 0..65535; names the file.
    """
    if row.view is not None:
        return checked_label(path, row.path, row.height, row.width, row.view)[0]
    instances = load_label(path, max(MAX_PIXELS, row.height * row.width))
    if instances.shape != (row.height, row.width):
        raise InputError(
            f"{path}: instance image of {instances.shape[1]} x {instances.shape[0]} pixels for an image of "
            f"{row.width} x {row.height} ({row.path}); instance images must have their image's size"
        )
    if instances.min() < 0 or instances.max() >= LABELS:
        raise InputError(f"{path}: instance ids {instances.min()}..{instances.max()}; ids must be in 0..{LABELS - 1}")
    return instances

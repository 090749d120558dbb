"""The labelled images of a run, with every check on a label file in one place."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from maskmill.errors import InputError, StoreError
from maskmill.images.labels import OUTSIDE, checked_label, core_ids
from maskmill.images.view import View
from maskmill.recipe.scoring import Evaluate
from maskmill.store.manifest import Manifest, Row
from maskmill.store.ragged import Ragged


def labelled_rows(manifest: Manifest) -> dict[str, Row]:
    """{image id: row} of the images of a manifest that have a label.

    Raises:
        InputError: there is none.
    """
    rows = {row.id: row for row in manifest.rows if row.label is not None}
    if not rows:
        raise InputError(
            f"{manifest.path}: no image has a label, so there is nothing to score; set labels: to a folder of label "
            "PNGs with the stems of the images, or leave labels: out"
        )
    return rows


def read_label(row: Row) -> np.ndarray:
    """Label int32 [height, width] of an image; of a window with OUTSIDE where the pixels are not of its core.

    Raises:
        InputError: unreadable, not of the image's size, ids outside 0..65535 (of a window 0..65534), or not the file
            that the manifest describes; names the file.
    """
    assert row.label is not None
    label, found = checked_label(row.label, row.path, row.height, row.width, row.view)
    if row.label_digest not in (None, found):
        raise InputError(
            f"{row.label}: label: another content than in the manifest; it changed since the inputs were checked: "
            "restore the file, or run snakemake again"
        )
    return core_ids(label, row.label, row.view)


def scored_once(settings: Evaluate, rows: Mapping[str, Row]) -> Evaluate:
    """The section for these images: where some are windows, what is OUTSIDE their cores is void.

    So every pixel of a large image counts once, for the window that it is in the core of. Without windows it is the
    section as it is.
    """
    if OUTSIDE in settings.ignore or not any(row.view and View.of(row.view).window for row in rows.values()):
        return settings
    return settings.model_copy(update={"ignore": [*settings.ignore, OUTSIDE]})


def labelled_images(stores: Sequence[Ragged], rows: Mapping[str, Row]) -> Iterator[tuple[Ragged, str, np.ndarray]]:
    """(store, id, values) of every labelled image; a store with few of them is not read as a whole."""
    for store in stores:
        wanted = [image_id for image_id in store.ids if image_id in rows]
        if 8 * len(wanted) < len(store):
            yield from ((store, image_id, store[image_id]) for image_id in wanted)
        else:
            yield from ((store, image_id, values) for image_id, values in store.images() if image_id in rows)


def check_complete(
    rows: Mapping[str, Row], seen: Mapping[str, str], count: int, stores: Sequence[Ragged], what: str
) -> None:
    """Every labelled image was scored exactly once.

    Raises:
        StoreError: one has none, or more than one `what` in the stores.
    """
    missing = sorted(set(rows) - set(seen))
    folder = stores[0].path.parent
    if missing:
        raise StoreError(
            f"{folder}: no {what} for {len(missing)} of {len(rows)} labelled images, the first is {missing[0]!r}; "
            "run snakemake again to make them"
        )
    if count != len(seen):
        raise StoreError(f"{folder}: {count - len(seen)} images have more than one {what}; delete stale stores")


def digest(label: np.ndarray) -> str:
    """Hash of a label's pixels and shape."""
    return hashlib.blake2b(label.tobytes(), digest_size=8, key=str(label.shape).encode()).hexdigest()


def class_label(label: int, names: Mapping[int, str]) -> str:
    """A class's name: as configured, with its id where two classes share one name; else the id."""
    name = names.get(label)
    if name is None:
        return str(label)
    return name if list(names.values()).count(name) == 1 else f"{name} ({label})"


def prediction_rows(store: Ragged, image_id: str, mask: np.ndarray, clusters: int) -> np.ndarray:
    """Mask of an image as confusion rows: 0 background, 1..k clusters, k + 1 predicted ignore."""
    ignored = mask == store.attrs["ignore"]
    if (mask[~ignored] > clusters).any():
        raise StoreError(
            f"{store.path}: {image_id}: a mask value beyond {clusters} clusters; delete it and run snakemake again"
        )
    return np.where(ignored, clusters + 1, mask.astype(np.int32))

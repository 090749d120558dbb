"""evaluate: masks + labels -> scores. File reading and writing of the stage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from maskmill.artefact import Provenance, write_json
from maskmill.config import Evaluate, validate
from maskmill.errors import StoreError
from maskmill.evaluate.confusion import Confusion, at_frame, frame
from maskmill.evaluate.labelled import digest, labelled_rows, read_label
from maskmill.evaluate.protocol import protocol
from maskmill.evaluate.score import score_clusters
from maskmill.manifest import Row
from maskmill.progress import track
from maskmill.store import Ragged


def run(
    mask_stores: Sequence[str | Path],
    manifest: str | Path,
    params: Mapping[str, Any],
    out: str | Path,
    recipe: str,
    seed: int,
    round: int,
) -> None:
    """Score the masks of one recipe, seed and round by every protocol of `params`; images without label are skipped.

    Args:
        mask_stores: Ragged "masks" of all shards.
        manifest: results/inputs/manifest.parquet.
        params: the `evaluate` section.
        out: JSON to write: recipe, seed, round, clusters, and `scores`, each with its whole protocol.

    Raises:
        InputError: no labelled image, a label of the wrong size or kind, or nothing of the scored classes.
        StoreError: a labelled image has no mask, or the masks disagree about the number of clusters.
    """
    settings = validate(Evaluate, params, "--params", "evaluate")
    rows = labelled_rows(manifest)
    stores = [Ragged(path, "masks") for path in mask_stores]
    clusters = cluster_count(stores)
    confusion = Confusion(clusters + 2, settings.classes, settings.ignore)
    digests: dict[str, str] = {}
    count = 0
    for store, image_id, values in track(_labelled_masks(stores, rows), len(rows), "evaluate"):
        row, count = rows[image_id], count + 1
        label = read_label(row)
        digests[row.id] = digest(label)
        shape, window = frame(row.height, row.width, settings.size)
        mask = prediction_rows(store, image_id, values, clusters)
        confusion.add(at_frame(mask, shape, window), at_frame(label, shape, window))
    _check_complete(rows, digests, count, stores)
    protocols = [
        protocol(name, settings.size, settings.ignore, confusion.classes, digests)
        for name in dict.fromkeys(settings.protocols)
    ]
    scores = score_clusters(confusion.counts, protocols, confusion.classes, settings.class_names)
    made = Provenance.of("evaluate", dict(params), [*(s.hash for s in stores), protocols[0].labels])
    body = {"recipe": recipe, "seed": seed, "round": round, "clusters": clusters, "scores": scores}
    write_json(out, body, made)


def cluster_count(stores: Sequence[Ragged]) -> int:
    """Number of clusters k that all mask stores name.

    Raises:
        StoreError: they differ.
    """
    found = {int(store.attrs["clusters"]): store.path for store in stores}
    if len(found) != 1:
        told = ", ".join(f"{path}: {k}" for k, path in sorted(found.items())) or "no store"
        raise StoreError(f"masks of different numbers of clusters ({told}); delete them and run snakemake again")
    return next(iter(found))


def _labelled_masks(stores: Sequence[Ragged], rows: Mapping[str, Row]) -> Iterator[tuple[Ragged, str, np.ndarray]]:
    """(store, id, mask) of every labelled image; a store with few of them is not read as a whole."""
    for store in stores:
        wanted = [image_id for image_id in store.ids if image_id in rows]
        if 8 * len(wanted) < len(store):
            yield from ((store, image_id, store[image_id]) for image_id in wanted)
        else:
            yield from ((store, image_id, mask) for image_id, mask in store.images() if image_id in rows)


def prediction_rows(store: Ragged, image_id: str, mask: np.ndarray, clusters: int) -> np.ndarray:
    """Mask of an image as confusion rows: 0 background, 1..k clusters, k + 1 predicted ignore."""
    ignored = mask == store.attrs["ignore"]
    if (mask[~ignored] > clusters).any():
        raise StoreError(
            f"{store.path}: {image_id}: a mask value beyond {clusters} clusters; delete it and run snakemake again"
        )
    return np.where(ignored, clusters + 1, mask.astype(np.int32))


def _check_complete(rows: Mapping[str, Any], seen: Mapping[str, str], count: int, stores: Sequence[Ragged]) -> None:
    """Every labelled image was scored exactly once."""
    missing = sorted(set(rows) - set(seen))
    folder = stores[0].path.parent
    if missing:
        raise StoreError(
            f"{folder}: no mask for {len(missing)} of {len(rows)} labelled images, the first is {missing[0]!r}; "
            "run snakemake again to make them"
        )
    if count != len(seen):
        raise StoreError(f"{folder}: {count - len(seen)} images have more than one mask; delete stale stores")

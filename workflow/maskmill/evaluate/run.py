"""evaluate: masks + labels -> scores. File reading and writing of the stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from maskmill.errors import StoreError
from maskmill.evaluate.labelled import check_complete, digest, labelled_images, labelled_rows, read_label
from maskmill.evaluate.run_objects import MaskSaliency, score_instances
from maskmill.evaluate.tally import Tally
from maskmill.images.masks import MaskSet
from maskmill.progress import track
from maskmill.recipe.base import validate
from maskmill.recipe.scoring import Evaluate
from maskmill.store.artefact import write_json
from maskmill.store.manifest import read_manifest
from maskmill.store.provenance import Provenance
from maskmill.store.ragged import Ragged


def run(
    mask_stores: Sequence[str | Path],
    manifest: str | Path,
    params: Mapping[str, Any],
    out: str | Path,
    masks: MaskSet,
    *,
    instances: Sequence[str | Path] = (),
) -> None:
    """Score the masks of one recipe, seed and round by every protocol of `params`; images without label are skipped.

    Args:
        mask_stores: Ragged "masks" of all shards.
        manifest: results/inputs/manifest.parquet.
        params: the `evaluate` section.
        masks: of which recipe, seed and round they are.
        out: JSON to write: recipe, seed, round, clusters, and `scores`, each with its whole protocol; where
            `evaluate.objects` asks for saliency, also `saliency`: the masks' foreground (see run_objects). With
            `instances`, also `objects`: these by the protocol of the cut's segments.
        instances: stores of the round's instances of all shards, which may overlap; where `evaluate.objects` is on.

    Raises:
        InputError: no labelled image, a label of the wrong size or kind, or nothing of the scored classes.
        StoreError: a labelled image has no mask, or the masks disagree about the number of clusters.
    """
    settings = validate(Evaluate, params, "--params", "evaluate")
    images = read_manifest(manifest)
    rows = labelled_rows(images)
    stores = [Ragged(path, "masks") for path in mask_stores]
    clusters = cluster_count(stores)
    tally = Tally(clusters, settings)
    painted = MaskSaliency.asked(settings, rows, images.ids)
    digests: dict[str, str] = {}
    count = 0
    for store, image_id, values in track(labelled_images(stores, rows), len(rows), "evaluate"):
        row, count = rows[image_id], count + 1
        label = read_label(row)
        digests[row.id] = digest(label)
        mask = prediction_rows(store, image_id, values, clusters)
        tally.add(mask, label)
        if painted is not None:
            painted.add_mask(row, label, mask, clusters)
    check_complete(rows, digests, count, stores, "mask")
    scores, protocols = tally.scores(digests)
    made = Provenance.of("evaluate", dict(params), [*(s.hash for s in stores), protocols[0].labels])
    body: dict[str, Any] = asdict(masks) | {"clusters": clusters, "scores": scores}
    if painted is not None:
        body["saliency"] = [painted.entry()]
    if instances and settings.objects is not None:
        body["objects"] = score_instances(instances, images, settings)
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


def prediction_rows(store: Ragged, image_id: str, mask: np.ndarray, clusters: int) -> np.ndarray:
    """Mask of an image as confusion rows: 0 background, 1..k clusters, k + 1 predicted ignore."""
    ignored = mask == store.attrs["ignore"]
    if (mask[~ignored] > clusters).any():
        raise StoreError(
            f"{store.path}: {image_id}: a mask value beyond {clusters} clusters; delete it and run snakemake again"
        )
    return np.where(ignored, clusters + 1, mask.astype(np.int32))

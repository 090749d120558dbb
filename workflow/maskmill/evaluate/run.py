"""evaluate: masks + labels -> scores. File reading and writing of the stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from maskmill.errors import InputError, StoreError
from maskmill.evaluate.boundary import BoundaryTally
from maskmill.evaluate.labelled import (
    check_complete,
    class_label,
    digest,
    labelled_images,
    labelled_rows,
    prediction_rows,
    read_label,
    scored_once,
)
from maskmill.evaluate.run_objects import MaskSaliency, score_instances
from maskmill.evaluate.run_panoptic import PanopticScores
from maskmill.evaluate.tally import Tally
from maskmill.images.masks import MaskSet
from maskmill.progress import track
from maskmill.recipe.base import validate
from maskmill.recipe.scoring import Evaluate
from maskmill.store.artefact import write_json
from maskmill.store.class_names import ClassNames
from maskmill.store.class_names import read as read_names
from maskmill.store.manifest import Row, read_manifest
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
    classes: str | Path | None = None,
) -> None:
    """Score the masks of one recipe, seed and round by every protocol of `params`; images without label are skipped.

    Args:
        mask_stores: Ragged "masks" of all shards.
        manifest: results/inputs/manifest.parquet.
        params: the `evaluate` section.
        masks: of which recipe, seed and round they are.
        out: JSON to write: recipe, seed, round, clusters, and `scores`, each with its whole protocol; where
            `evaluate.boundary` asks for it, `boundary`: that of each matching (see boundary); where
            `evaluate.objects` asks for saliency, also `saliency`: the masks' foreground (see run_objects). With
            `instances` after round 0, also `objects`: these by the protocol of the cut's segments. With
            `evaluate.panoptic` also `panoptic`, see `maskmill.evaluate.panoptic`.
        classes: classes.json of a recipe whose masks show classes with names: they are scored by name too, and images
            whose labels made the classes are left out.
        instances: stores of the round's instances of all shards, which may overlap; where `evaluate.objects` is on.

    Raises:
        InputError: no labelled image, a label of the wrong size or kind, or nothing of the scored classes.
        StoreError: a labelled image has no mask, or the masks disagree about the number of clusters.
    """
    settings = validate(Evaluate, params, "--params", "evaluate")
    images = read_manifest(manifest)
    naming = None if classes is None else read_names(classes)
    rows = _unseen(labelled_rows(images), naming)
    settings = scored_once(settings, rows)
    stores = [Ragged(path, "masks") for path in mask_stores]
    clusters = cluster_count(stores)
    tally = Tally(clusters, settings, None if naming is None else _row_names(naming, settings))
    painted = MaskSaliency.asked(settings, rows, images.rows)
    panoptic = PanopticScores(settings, rows, images, instances) if settings.panoptic is not None else None
    digests: dict[str, str] = {}
    count = 0
    for store, image_id, values in track(labelled_images(stores, rows), len(rows), "evaluate"):
        row, count = rows[image_id], count + 1
        label = read_label(row)
        digests[row.id] = digest(label)
        mask = prediction_rows(store, image_id, values, clusters)
        valid = store.valid(image_id)
        tally.add(mask, label, valid)
        if painted is not None:
            painted.add_mask(row, label, mask, clusters, valid)
    check_complete(rows, digests, count, stores, "mask")
    scores, protocols = tally.scores(digests)
    named = [] if naming is None else [naming.hash]
    made = Provenance.of("evaluate", dict(params), [*(s.hash for s in stores), protocols[0].labels, *named])
    body: dict[str, Any] = asdict(masks) | {"clusters": clusters, "scores": scores}
    if settings.boundary is not None:
        body["boundary"] = _boundaries(stores, rows, settings, scores)
    if painted is not None:
        body["saliency"] = [painted.entry()]
    if instances and settings.objects is not None and masks.round:  # those of round 0 are a cut's, scored as such
        body["objects"] = score_instances(instances, images, settings)
    if panoptic is not None:
        body["panoptic"] = panoptic.score(stores, tally.confusion, digests)
    write_json(out, body, made)


def _boundaries(
    stores: Sequence[Ragged], rows: Mapping[str, Row], settings: Evaluate, scores: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Boundaries under the matching of each entry of `scores` that has one; masks and labels are read once more.

    Which cluster is which class is known only after all images are counted.
    """
    assert settings.boundary is not None
    clusters = cluster_count(stores)
    tallies = [BoundaryTally(e, clusters + 2, settings, settings.boundary) for e in scores if "matching" in e]
    for store, image_id, values in track(labelled_images(stores, rows), len(rows), "evaluate boundaries"):
        label, mask = read_label(rows[image_id]), prediction_rows(store, image_id, values, clusters)
        for tally in tallies:
            tally.add(mask, label, store.valid(image_id))
    return [tally.entry() for tally in tallies]


def _row_names(naming: ClassNames, settings: Evaluate) -> dict[int, str]:
    """Mask value -> name of its class; a class that a label made has the name that the scores give to this label."""
    ids = naming.label_ids
    return naming.names | {value: class_label(label, settings.class_names) for value, label in ids.items()}


def _unseen(rows: Mapping[str, Row], naming: ClassNames | None) -> dict[str, Row]:
    """The labelled images that did not make the classes.

    Raises:
        InputError: there is none.
    """
    seen = set(naming.examples) if naming is not None else set()
    left = {image_id: row for image_id, row in rows.items() if image_id not in seen}
    if not left:
        raise InputError(
            f"taxonomy.labels: all {len(rows)} labelled images made the classes, so none is left to score; name the "
            "ones that are to be examples in taxonomy.images, or leave labels out"
        )
    return left


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

"""evaluate objects: segments of a recipe's cut + labels -> class-agnostic scores, once a recipe: no seed plays a part.

The saliency of the painted masks of each round is counted by the same rules (`MaskSaliency`), beside their scores; so
are the instances of rounds whose student predicts some (`score_instances`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from maskmill.errors import ConfigError, InputError
from maskmill.evaluate.confusion import at_frame, frame
from maskmill.evaluate.labelled import check_complete, labelled_images, labelled_rows, read_label, scored_once
from maskmill.evaluate.layers import Layers
from maskmill.evaluate.nodes import Nodes
from maskmill.evaluate.objects import Metric, Scene, metrics_of, rules_of
from maskmill.evaluate.protocol import object_protocol
from maskmill.evaluate.saliency import RULES as SALIENCY_RULES
from maskmill.evaluate.saliency import Saliency
from maskmill.evaluate.segment_oracle import SegmentOracle
from maskmill.evaluate.superpixels import RULES as SUPERPIXEL_RULES
from maskmill.evaluate.superpixels import Superpixels
from maskmill.evaluate.truth import Truth, TruthReader
from maskmill.images.instances import InstanceStore
from maskmill.progress import track
from maskmill.recipe.base import validate
from maskmill.recipe.scoring import Evaluate
from maskmill.store.artefact import write_json
from maskmill.store.manifest import Manifest, Row, read_manifest
from maskmill.store.provenance import Provenance
from maskmill.store.ragged import Ragged


def run(
    cut_stores: Sequence[str | Path], manifest: str | Path, params: Mapping[str, Any], out: str | Path, recipe: str
) -> None:
    """Score the segments of one recipe's cut; images without label are skipped.

    Args:
        cut_stores: Ragged "segments" of all shards, on any grid. Per-image fields: `scores` [N], the score of segment
            i + 1 at i, else `confidence`, the score of every segment of the image, else all segments are equal. Where
            there are `parents` [P], every node of the tree is a proposal, and `scores` [P] are those of nodes.
        manifest: results/inputs/manifest.parquet.
        params: the `evaluate` section, with `objects`.
        out: JSON to write: recipe, ranking (what the segments were ranked by), and `scores`, one entry for CorLoc, AP,
            mBO and FG-ARI, one for saliency and one for superpixels, each with its whole protocol; where the metric
            `oracle` is asked for, also `oracle`: its entry, as of masks (see segment_oracle).

    Raises:
        ConfigError: `evaluate.objects` is off.
        InputError: no labelled image, no object in any of them, or a label or instance image is wrong.
        StoreError: a labelled image has no segments, or a segment has no score.
    """
    settings = validate(Evaluate, params, "--params", "evaluate")
    if settings.objects is None:
        raise ConfigError("--params: evaluate.objects: off; set it to true, or to a mapping")
    images = read_manifest(manifest)
    rows = labelled_rows(images)
    wanted, settings = settings.objects.metrics, scored_once(settings, rows)
    stores = [Ragged(path, "segments") for path in cut_stores]
    reader = TruthReader(settings, rows, images.rows)
    seen = _Seen.of(wanted, settings, reader)
    oracle = SegmentOracle.asked(settings)
    proposals = {str(store.path): _Proposals.of(store) for store in stores}
    facts, count = {"images_with_objects": 0, "objects": 0, "segments": 0}, 0
    for store, image_id, values in track(labelled_images(stores, rows), len(rows), "evaluate objects"):
        row, label, count = rows[image_id], read_label(rows[image_id]), count + 1
        valid = seen_at(store.valid(image_id), row, settings)
        truth = reader.read(row, label).without(valid)
        shape, window = frame(row.height, row.width, settings.size)
        found = at_frame(values, shape, window)
        scene = proposals[str(store.path)].scene(store, image_id, truth, found)
        seen.add(image_id, scene, found, truth)
        if oracle is not None:
            oracle.add(image_id, values, label, store.valid(image_id))
        if seen.superpixels is not None:
            label = at_frame(label, shape, window)
            void = reader.outside(label)
            seen.superpixels.add(found, label, void if valid is None else void | ~valid)
        facts["images_with_objects"] += truth.count > 0
        facts["objects"] += truth.count
        facts["segments"] += len(scene.scores)
    check_complete(rows, reader.labels, count, stores, "segments")
    check_objects(facts["objects"], settings)
    labels = [*sorted(reader.labels.items()), *sorted(reader.instances.items())]
    made = Provenance.of("evaluate", dict(params), [*(s.hash for s in stores), *(digest for _, digest in labels)])
    ranking = sorted({each.ranking for each in proposals.values()})
    body: dict[str, Any] = {"recipe": recipe, "ranking": "+".join(ranking), "scores": seen.entries(facts)}
    if oracle is not None:
        body["oracle"] = oracle.entries()
    write_json(out, body, made)


@dataclass(frozen=True)
class _Seen:
    """What is measured of the images of a cut."""

    settings: Evaluate
    reader: TruthReader
    metrics: list[Metric]
    saliency: Saliency | None
    superpixels: Superpixels | None

    @classmethod
    def of(cls, wanted: Sequence[str], settings: Evaluate, reader: TruthReader) -> _Seen:
        """With nothing seen so far, of the metrics that are wanted."""
        saliency = Saliency() if "saliency" in wanted else None
        return cls(settings, reader, metrics_of(wanted), saliency, Superpixels() if "superpixels" in wanted else None)

    def add(self, image_id: str, scene: Scene | Nodes, found: np.ndarray, truth: Truth) -> None:
        """Count one image, found [H, W] by segments, but for its superpixels."""
        for metric in self.metrics:
            metric.add(image_id, scene)
        if self.saliency is not None:
            self.saliency.add(found > 0, truth.objects > 0, truth.void)

    def entries(self, facts: Mapping[str, int]) -> list[dict[str, Any]]:
        """One for each kind of metric, with its protocol; facts: how much was seen."""
        entries, settings, reader = [], self.settings, self.reader
        assert settings.objects is not None
        if self.metrics:
            rules = rules_of(settings.objects.metrics)
            rule = object_protocol("objects", settings, rules, reader.labels, reader.instances)
            values = {name: value for metric in self.metrics for name, value in metric.result().items()}
            entries.append({"protocol": rule.as_dict(), **values, "images": rule.images, **facts})
        if self.saliency is not None:
            entries.append(_saliency_entry(self.saliency, settings, reader))
        if self.superpixels is not None:
            rule = object_protocol("superpixels", settings, SUPERPIXEL_RULES, reader.labels, {})
            found = self.superpixels
            entries.append({"protocol": rule.as_dict(), **found.result(), "images": found.images})
        return entries


@dataclass(frozen=True)
class _Proposals:
    """What ranks the segments of a store, or the nodes of its trees.

    Attributes:
        ranking: the name of the field. scores: [images, segments or nodes]. parents: [images, nodes] of trees, or None.
    """

    ranking: str
    scores: np.ndarray
    parents: np.ndarray | None

    @classmethod
    def of(cls, store: Ragged) -> _Proposals:
        """Those of a store; what is stored once an image is read once."""
        parents = store.per_image("parents") if "parents" in store.per_image_names else None
        return cls(*segment_scores(store), parents)

    def scene(self, store: Ragged, image_id: str, truth: Truth, found: np.ndarray) -> Scene | Nodes:
        """Segments of an image, found [H, W], against its truth; the nodes of the tree where there are trees."""
        place, name = store.index(image_id), f"{store.path}: {image_id}"
        if self.parents is None:
            return Scene.of(truth, found, self.scores[place], name)
        return Nodes.of(truth, found, self.parents[place], self.scores[place], name)


def score_instances(
    instance_stores: Sequence[str | Path], manifest: Manifest, settings: Evaluate
) -> list[dict[str, Any]]:
    """Entries of CorLoc, AP, mBO and FG-ARI of predicted instances, by the cut's protocol; none if not asked.

    Instances are scored as they are: overlapping ones are not flattened, but for FG-ARI, which compares partitions.

    Raises:
        InputError, StoreError: as `run`.
    """
    wanted = settings.objects
    metrics = metrics_of(wanted.metrics) if wanted else []
    if wanted is None or not metrics:
        return []
    rows = labelled_rows(manifest)
    settings = scored_once(settings, rows)
    stores = [InstanceStore(path) for path in instance_stores]
    reader = TruthReader(settings, rows, manifest.rows)
    facts, count = {"images_with_objects": 0, "objects": 0, "segments": 0}, 0
    for store in stores:
        for image_id, found in track(store.images(), len(store), "evaluate instances"):
            if image_id not in rows:
                continue
            row, truth, count = rows[image_id], reader.read(rows[image_id]), count + 1
            shape, window = frame(row.height, row.width, settings.size)
            found, valid = found.apart()
            truth = truth.without(seen_at(valid, row, settings))
            masks = found.at(shape).masks[:, window[0], window[1]]
            scene = Layers.of(truth, masks, found.scores, f"{store.path}: {image_id}")
            for metric in metrics:
                metric.add(image_id, scene)
            facts["images_with_objects"] += truth.count > 0
            facts["objects"] += truth.count
            facts["segments"] += len(scene.scores)
    check_complete(rows, reader.labels, count, [store.store for store in stores], "instances")
    check_objects(facts["objects"], settings)
    rule = object_protocol("objects", settings, rules_of(wanted.metrics), reader.labels, reader.instances)
    values_of = {name: value for metric in metrics for name, value in metric.result().items()}
    return [{"protocol": rule.as_dict(), **values_of, "images": rule.images, **facts}]


def seen_at(valid: np.ndarray | None, row: Row, settings: Evaluate) -> np.ndarray | None:
    """Valid cells [h, w] of an image where it is scored, bool of that size; None where all are."""
    return None if valid is None else at_frame(valid, *frame(row.height, row.width, settings.size))


def segment_scores(store: Ragged) -> tuple[str, np.ndarray]:
    """What ranks the segments of a store, and their scores [images, segments]."""
    if "scores" in store.per_image_names:
        scores = store.per_image("scores")
        return "scores", scores.reshape(len(scores), -1)
    most = np.iinfo(store.values.dtype).max
    if "confidence" in store.per_image_names:
        return "confidence", np.broadcast_to(store.per_image("confidence")[:, None], (len(store), most))
    return "none", np.broadcast_to(np.float32(1), (len(store), most))


def check_objects(objects: int, settings: Evaluate) -> None:
    """There is something to find, or an InputError that says where to look."""
    wanted = settings.objects
    if objects or wanted is None:
        return
    where = f"instance image of {wanted.instances!r}" if wanted.instances else "label"
    asked = "" if wanted.foreground is None else f" of foreground {wanted.foreground}"
    small = f" of at least {wanted.min_area:g} of the image" if wanted.min_area else ""
    raise InputError(
        f"evaluate.objects: no {where} has an object{asked}{small}; "
        "name label ids that occur as foreground, lower min_area, or set objects: false"
    )


class MaskSaliency:
    """Saliency of the painted masks of one round: a cluster's pixels are foreground, mask value 0 is background."""

    def __init__(self, settings: Evaluate, reader: TruthReader) -> None:
        self.settings, self.reader, self.saliency = settings, reader, Saliency()

    @classmethod
    def asked(cls, settings: Evaluate, rows: Mapping[str, Row], images: Iterable[Row]) -> MaskSaliency | None:
        """One where `evaluate.objects` asks for saliency, else None. rows, images: as in `TruthReader`."""
        if settings.objects is None or "saliency" not in settings.objects.metrics:
            return None
        return cls(settings, TruthReader(settings, rows, images))

    def add_mask(
        self, row: Row, label: np.ndarray, mask: np.ndarray, clusters: int, valid: np.ndarray | None = None
    ) -> None:
        """Count one image: label [height, width] and mask [h, w], 0 background, 1..k, k + 1 predicted ignore.

        What is not `valid` [h, w] is void.
        """
        truth = self.reader.read(row, label).without(seen_at(valid, row, self.settings))
        found = at_frame(mask, *frame(row.height, row.width, self.settings.size))
        wanted = truth.objects > 0
        self.saliency.add(np.where(found > clusters, ~wanted, found > 0), wanted, truth.void)

    def entry(self) -> dict[str, Any]:
        """One entry of `saliency`."""
        return _saliency_entry(self.saliency, self.settings, self.reader)


def _saliency_entry(saliency: Saliency, settings: Evaluate, reader: TruthReader) -> dict[str, Any]:
    rule = object_protocol("saliency", settings, SALIENCY_RULES, reader.labels, reader.instances)
    return {"protocol": rule.as_dict(), **saliency.result(), "images": saliency.images}

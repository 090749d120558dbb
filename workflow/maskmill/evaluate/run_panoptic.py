"""Panoptic quality of the masks of a round, with its instances where there are some: reading and the order of steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from maskmill.errors import InputError, StoreError
from maskmill.evaluate.confusion import LABELS, Confusion, at_frame, frame
from maskmill.evaluate.labelled import class_label, digest, labelled_images, prediction_rows, read_label
from maskmill.evaluate.panoptic import NONE, RULES, Quality, Segments, found_segments, matched, result, true_segments
from maskmill.evaluate.protocol import panoptic_protocol
from maskmill.evaluate.score import drop_absent
from maskmill.evaluate.truth import instance_files, read_instances
from maskmill.images.instances import Instances, InstanceStore
from maskmill.progress import track
from maskmill.recipe.scoring import Evaluate, Panoptic
from maskmill.store.manifest import Manifest, Row
from maskmill.store.ragged import Ragged


def thing_rows(stores: Sequence[Ragged], clusters: int) -> np.ndarray | None:
    """Which rows 0..k of masks are known to be things (1), stuff (0), neither (NONE); None where all may be any."""
    things = {store.attrs.get("things") for store in stores}
    if things == {None}:
        return None
    rows = np.full(clusters + 1, NONE, np.int64)
    most = max(int(count or 0) for count in things)
    rows[1 : most + 1], rows[most + 1 :] = 1, 0
    return rows


class PanopticScores:
    """Scores the panoptic maps of a round.

    Args:
        rows: the labelled images; images: all of the run.
        instances: stores of all shards; where there are none, connected parts of the masks are things.

    Raises:
        InputError: `evaluate.panoptic.instances` is no folder, or has no file for a labelled image.
    """

    def __init__(
        self, settings: Evaluate, rows: Mapping[str, Row], images: Manifest, instances: Sequence[str | Path] = ()
    ) -> None:
        assert settings.panoptic is not None
        self.settings, self.wanted, self.rows = settings, settings.panoptic, rows
        self._instances = {i: store for store in map(InstanceStore, instances) for i in store.ids}
        self._files = instance_files(self.wanted.instances, rows, images.rows, "evaluate.panoptic.instances")
        self._digests: dict[str, str] = {}

    def score(self, masks: Sequence[Ragged], confusion: Confusion, digests: Mapping[str, str]) -> list[dict[str, Any]]:
        """One entry a rule of `evaluate.panoptic.matching`.

        Args:
            masks: stores of all shards. confusion: of these masks, complete.
            digests: {image id: digest of its label's pixels}.

        Raises:
            InputError: no class that is scored occurs. StoreError: an image has no instances, where others have some.
        """
        counts, ids = drop_absent(confusion.counts[:-1], confusion.classes)
        clusters = len(counts) - 1
        is_thing = thing_classes(ids, self.wanted)
        kinds = thing_rows(masks, clusters)
        # The row of predicted ignore is last, and has no class.
        matches: dict[str, np.ndarray] = {
            r: np.append(matched(r, counts, is_thing, kinds), NONE) for r in self.wanted.matching
        }
        quality, things = {rule: Quality(len(ids)) for rule in matches}, 0
        for store, image_id, values in track(labelled_images(masks, self.rows), len(self.rows), "evaluate panoptic"):
            row = self.rows[image_id]
            seen = prediction_rows(store, image_id, values, clusters)
            truth = self._truth(row, ids, is_thing, store.valid(image_id))
            things += int(is_thing[truth.classes].sum())
            for rule, found in self._found(row, seen, matches, is_thing).items():
                quality[rule].add(truth, found)
        names = [class_label(c, self.settings.class_names) for c in ids]
        about = {"separated": kinds is not None, "images": len(digests), "objects": things}
        entries = []
        for rule, match in matches.items():
            told = panoptic_protocol((rule, RULES[rule]), self.settings, confusion.classes, digests, self._digests)
            which = {int(i): int(match[i]) for i in np.flatnonzero(match >= 0)}
            entries.append({"protocol": told.as_dict()} | result(quality[rule], names, is_thing, which) | about)
        return entries

    def _truth(self, row: Row, ids: Sequence[int], is_thing: np.ndarray, valid: np.ndarray | None) -> Segments:
        """The labelled segments of an image where it is scored; found at the label's own size."""
        column = np.full(LABELS, NONE, np.int64)
        column[list(ids)] = np.arange(len(ids))
        objects = None
        if self._files is not None:
            objects = read_instances(self._files[row.id], row)
            self._digests[row.id] = digest(objects)
        whole = true_segments(column[read_label(row)], objects, is_thing, self.wanted.min_area)
        shape, window = frame(row.height, row.width, self.settings.size)
        seen = at_frame(whole.ids, shape, window)
        if valid is not None:
            seen = np.where(at_frame(valid, shape, window), seen, 0)
        classes = np.append(NONE, whole.classes)[seen]
        thing = (classes >= 0) & is_thing[classes]
        return Segments.of(np.where(thing, NONE, classes), np.where(thing, seen, 0), whole.classes)

    def _found(
        self, row: Row, seen: np.ndarray, matches: Mapping[str, np.ndarray], is_thing: np.ndarray
    ) -> dict[str, Segments]:
        """The predicted segments of an image by each rule, from its mask as rows [h, w]."""
        shape, window = frame(row.height, row.width, self.settings.size)
        rows, objects = at_frame(seen, shape, window), None
        if self._instances:
            if row.id not in self._instances:
                raise StoreError(f"{row.id}: has masks and no instances; run snakemake again to make them")
            whole = self._instances[row.id][row.id].apart()[0].at(shape)
            objects = Instances(whole.masks[:, window[0], window[1]], whole.labels, whole.scores)
        return {rule: found_segments(rows, match, is_thing, objects) for rule, match in matches.items()}


def thing_classes(classes: Sequence[int], wanted: Panoptic) -> np.ndarray:
    """Which label ids are things: bool [classes].

    Raises:
        InputError: none of `evaluate.panoptic.things` occurs.
    """
    things = {c for c in classes if c > 0} if wanted.things is None else set(wanted.things)
    found = np.array([c in things for c in classes], bool)
    if wanted.things and not found.any():
        raise InputError(
            f"evaluate.panoptic.things: no label has a pixel of {wanted.things}; name some of {list(classes)}, or "
            "leave it out for every id above 0"
        )
    return found

"""What a later round learns from: sure predictions, and the old instances that none of them replaces (CutLER)."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np

from maskmill.errors import StoreError
from maskmill.images.instances import VOID, Instances, InstanceStore, InstanceWriter, mask_iou
from maskmill.store.provenance import Provenance


class Teaching(Protocol):
    """The settings of a student that are read here."""

    @property
    def keep_score(self) -> float: ...
    @property
    def merge_iou(self) -> float: ...


def teach(taught: str | Path, predicted: str | Path, params: Teaching, round: int, out: str | Path) -> None:
    """Write the instances of one shard that round `round` >= 2 learns from.

    Args:
        taught: those that the round before learnt from. predicted: those that it predicted.

    Raises:
        StoreError: the two stores hold other images.
    """
    old, new = InstanceStore(taught), InstanceStore(predicted)
    if old.ids != new.ids:
        raise StoreError(f"{predicted}: its images are not those of {taught}; run snakemake again")
    how = {"teach": round, "keep_score": params.keep_score, "merge_iou": params.merge_iou}
    made = Provenance.of("rounds", how, [old.hash, new.hash])
    with InstanceWriter(out, {"clusters": new.attrs["clusters"], "round": round}, made) as writer:
        for (image_id, before), (_, found) in zip(old.images(), new.images(), strict=True):
            writer.append(image_id, merge(before, found, params.keep_score, params.merge_iou))


def merge(old: Instances, new: Instances, keep_score: float, merge_iou: float) -> Instances:
    """Predictions of at least `keep_score`, then the old instances whose best IoU with those is below `merge_iou`.

    Without such a prediction the old ones stay as they are. Void counts as an old instance; that of the predictions,
    which is where there is no data, stays. IoU is taken on the grid of the predictions.
    """
    void, new = new.take(new.labels == VOID), new.take(new.labels != VOID)
    kept = new.take(new.scores >= keep_score)
    if not len(kept):
        return old + void.at(old.size) if len(void) else old
    before = old.at(kept.size)
    overlap = mask_iou(before.masks, kept.masks).max(axis=1, initial=0) if len(before) else np.zeros(0)
    return kept + before.take(overlap < merge_iou) + void

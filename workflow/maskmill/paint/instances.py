"""The kept regions of a shard as instances, for students that learn from objects instead of masks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from maskmill.images.instances import VOID, Instances, InstanceWriter
from maskmill.images.interpolate import resize_labels
from maskmill.images.masks import ignore_value
from maskmill.images.nodata import at_grid, nearest_valid
from maskmill.paint.run import ShardLabels, settings_of
from maskmill.store.provenance import Provenance


def run_instances(
    segments: str | Path,
    assignments: str | Path,
    limits: str | Path,
    codebook: str | Path,
    params: Mapping[str, Any],
    out: str | Path,
) -> None:
    """Write the regions of one shard with the clusters that they belong to, by the rules of `run_regions`.

    A kept region is an instance of its cluster with score 1. What `dropped: ignore` leaves out is void: one mask of
    class VOID an image; so is what shows no data. What `dropped: background` leaves out is not there. `paint.refine`
    does not apply: it fits all masks of an image together, `cut.refine` each segment.

    Args:
        segments, assignments, limits, codebook, params: as in `run_regions`.
        out: store of instances, on the grid of the segments, or of `upsample` cells a token side where that is finer.
    """
    import torch

    torch.set_num_threads(1)
    settings = settings_of(params)
    shard = ShardLabels(segments, assignments, limits, codebook, settings)
    made = Provenance.of("paint", dict(params), shard.hashes)
    with InstanceWriter(out, {"clusters": shard.clusters, "round": 0} | shard.facts, made) as writer:
        for image_id, found in shard.store.images():
            finer = max(1, settings.upsample / shard.cells)
            size = (round(found.shape[0] * finer), round(found.shape[1] * finer))
            valid = shard.store.valid(image_id)
            fine = resize_labels(nearest_valid(found, valid), size)
            writer.append(image_id, instances_of(fine, shard.labels(image_id), at_grid(valid, size)))


def instances_of(segments: np.ndarray, table: np.ndarray, valid: np.ndarray | None = None) -> Instances:
    """Instances of segments [h, w] uint8 whose mask values are `table` [256] (see `region_labels`).

    Cells that are not `valid` [h, w] are void.
    """
    if valid is not None:
        segments = np.where(valid, segments, 0).astype(segments.dtype)
    unknown = ignore_value(table.dtype)
    present = [int(s) for s in np.unique(segments) if s and table[s] not in (0, unknown)]
    masks = [segments == s for s in present]
    labels = [int(table[s]) for s in present]
    void = (table[segments] == unknown) & (segments > 0)
    if valid is not None:
        void |= ~valid
    if void.any():
        masks, labels = [*masks, void], [*labels, VOID]
    stacked = np.array(masks, bool).reshape(len(masks), *segments.shape)
    return Instances(stacked, np.array(labels, np.int64), np.ones(len(masks), np.float32))

"""Files of the regions stage: segments and features of one shard -> region table and region vectors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from maskmill import registry
from maskmill.artefact import Provenance, write_table
from maskmill.errors import StoreError
from maskmill.store import Ragged, RaggedWriter

COLUMNS = ("image", "region", "area", "y0", "x0", "y1", "x1", "score")


def run(
    segments: str | Path,
    features: str | Path,
    params: Mapping[str, Any],
    out_table: str | Path,
    out_vectors: str | Path,
) -> None:
    """Describe every segment of one shard: area, box, confidence, and one vector.

    Args:
        segments: Ragged "segments" of the shard, 0 = no segment, with the per-image field confidence.
        features: Ragged "features" of the same images; images are matched by id.
        params: the flat `regions` section of the recipe.
        out_table: Parquet, one row a region in the order of the shard's images, then region id: image, region,
            area (share of the image), box y0, x0, y1, x1 (0..1), score (the segment's where the cut has `scores`, else
            the confidence of the image's cut).
        out_vectors: Ragged "vectors", grid (r, 1) an image; its rows are the rows of the table.

    Raises:
        StoreError: an image of the segments has no features.
    """
    from maskmill.progress import track

    module = registry.load("regions", params["pool"])
    own = module.Params(**{key: value for key, value in params.items() if key in module.Params.model_fields})
    cut, tokens = Ragged(segments, "segments"), Ragged(features, "features")
    score = _scores(cut)
    absent = [image_id for image_id in cut.ids if image_id not in tokens]
    if absent:
        raise StoreError(f"{features}: no features of {len(absent)} segmented images, first {absent[0]!r}; delete it")
    provenance = Provenance.of("regions", params, [cut.hash, tokens.hash])
    rows: list[tuple[Any, ...]] = []
    with RaggedWriter(out_vectors, "vectors", depth=tokens.depth, dtype="float32", provenance=provenance) as writer:
        for i, image_id in track(list(enumerate(cut.ids)), len(cut), "regions"):
            labels = keep_large(cut[i], float(params.get("min_area", 0.0)))
            vectors, ids = np.zeros((0, tokens.depth or 1), np.float32), np.zeros(0, np.int64)
            if labels.any():
                vectors, ids = module.pool(tokens[image_id].astype(np.float32), labels, own)
            writer.append(image_id, vectors[:, None])
            rows += [
                (image_id, int(r), *area_and_box(labels == r), float(score[i, min(r, score.shape[1]) - 1])) for r in ids
            ]
    write_table(out_table, _table(rows), provenance)


def _scores(cut: Ragged) -> np.ndarray:
    """Score of segment r of image i at [i, r - 1]; the image's own where the cut scores no segments."""
    if "scores" in cut.per_image_names:
        return cut.per_image("scores")
    return np.broadcast_to(cut.per_image("confidence")[:, None], (len(cut), 255))


def keep_large(segments: np.ndarray, min_area: float) -> np.ndarray:
    """Segments [H, W] with those below `min_area` (share of the image) set to 0."""
    counts = np.bincount(segments.ravel(), minlength=256)
    small = counts < min_area * segments.size - 1e-9  # the boundary itself is kept
    return np.where(small[segments], 0, segments)


def area_and_box(mask: np.ndarray) -> tuple[float, float, float, float, float]:
    """Share of the image and tight box (y0, x0, y1, x1) in 0..1 of a non-empty mask [H, W]."""
    h, w = mask.shape
    ys, xs = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return float(mask.mean()), ys[0] / h, xs[0] / w, (ys[-1] + 1) / h, (xs[-1] + 1) / w


def _table(rows: list[tuple[Any, ...]]) -> Any:
    import pyarrow as pa

    kinds = [pa.string(), pa.int32(), *[pa.float32()] * 6]
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(COLUMNS)
    arrays = [pa.array(column, kind) for column, kind in zip(columns, kinds, strict=True)]
    return pa.table(dict(zip(COLUMNS, arrays, strict=True)))

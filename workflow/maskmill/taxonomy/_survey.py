"""Where the clusters lie in a sample of the images: what a person looks at to name them, and how sure each place is.

The maps are on the grid of the tokens. They do not depend on a taxonomy, so that clusters can be named again and again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from maskmill.errors import StoreError
from maskmill.images.masks import mask_dtype
from maskmill.images.sample import read, read_images
from maskmill.painting import scoring
from maskmill.store.artefact import read_table
from maskmill.store.codebook import Codebook, scores
from maskmill.store.ragged import Ragged
from maskmill.taxonomy import ShardVectors

STEPS = 255  # of a margin


Map = tuple[str, np.ndarray, np.ndarray]


def maps(shard: ShardVectors, book: Codebook, ids: Sequence[str], ground: Codebook | None = None) -> Iterator[Map]:
    """(id, clusters, margins) of some images of a shard, on the grid of the tokens.

    Clusters are [h, w] mask values: cluster + 1, 0 where there is no segment, noise, background or no data. Margins are
    uint8 [h, w]: how much nearer the nearest cluster is than the second, 0 where both are as near, 255 at the centroid.

    Args:
        ground: codebook of background and foreground of the tokens.
    """
    store = Ragged(shard.vectors)
    if shard.segments is not None and shard.table is not None:
        yield from _of_segments(store, Ragged(shard.segments, "segments"), shard.table, book, ids)
        return
    for image_id in ids:
        vectors = store[image_id]  # [h, w, d]
        rows = vectors.reshape(-1, vectors.shape[-1])
        values, margins = values_of(rows, book)
        if ground is not None:
            outside = values_of(rows, ground)[0] == 1
            values[outside], margins[outside] = 0, 0
        valid = store.valid(image_id)
        if valid is not None:
            values[~valid.ravel()], margins[~valid.ravel()] = 0, 0
        yield image_id, values.reshape(vectors.shape[:2]), margins.reshape(vectors.shape[:2])


def _of_segments(store: Ragged, segments: Ragged, table: Path, book: Codebook, ids: Sequence[str]) -> Iterator[Map]:
    """The same of segments, each with the cluster of its vector."""
    cells, rows = int(segments.attrs.get("cells", 1)), region_rows(table)
    for image_id, found in read_images(segments, ids).items():
        regions = list(rows.get(image_id, ()))
        vectors = store[image_id]
        if len(vectors) != len(regions):
            raise StoreError(f"{table}: its regions are not those of {store.path}; delete both and run snakemake again")
        values, margins = values_of(vectors.reshape(len(regions), vectors.shape[-1]), book)
        of_segment, sure = np.zeros(256, values.dtype), np.zeros(256, np.uint8)
        of_segment[regions], sure[regions] = values, margins
        coarse = found[cells // 2 :: cells, cells // 2 :: cells]
        yield image_id, of_segment[coarse], sure[coarse]


def values_of(vectors: np.ndarray, book: Codebook) -> tuple[np.ndarray, np.ndarray]:
    """Mask values [n] (cluster + 1, 0 for noise) and margins uint8 [n] of vectors [n, d]."""
    clusters = len(book)
    values, margins = np.zeros(len(vectors), mask_dtype(clusters)), np.zeros(len(vectors), np.uint8)
    step = max(1, (32 << 20) // (4 * len(book.centroids)))
    for start in range(0, len(vectors), step):
        found = scores(vectors[start : start + step], book)  # [b, k] or [b, k + 1]
        best = found.argmax(axis=1)
        values[start : start + step] = np.where(best < clusters, best + 1, 0)
        margins[start : start + step] = margin(found, book.spherical)
    return values, margins


def margin(found: np.ndarray, spherical: bool) -> np.ndarray:
    """uint8 [n] of scores [n, k]: 1 - (distance to the nearest cluster) / (distance to the second), in 255 steps."""
    if found.shape[1] < 2:
        return np.full(len(found), STEPS, np.uint8)
    two = np.partition(found, -2, axis=1)[:, -2:].astype(np.float64)
    return np.asarray(np.round(STEPS * scoring.margin(two[:, 1], two[:, 0], spherical)).astype(np.uint8))


def sampled(manifest: str | Path, gallery: int) -> Mapping[str, tuple[str, ...]]:
    """{shard: ids} of the images that are looked at: the gallery of the report, and some hundred others."""
    sample = read(Path(manifest), gallery)
    chosen = {shard: dict.fromkeys(ids) for shard, ids in sample.statistics.items()}
    for picture in sample.gallery:
        chosen.setdefault(picture.shard, {})[picture.id] = None
    return {shard: tuple(sorted(ids)) for shard, ids in sorted(chosen.items())}


def region_rows(table: Path) -> dict[str, tuple[int, ...]]:
    """{image: its region ids} in the order of the table."""
    rows = read_table(table, ["image", "region"])
    found: dict[str, list[int]] = {}
    for image, region in zip(rows["image"].to_pylist(), rows["region"].to_pylist(), strict=True):
        found.setdefault(image, []).append(region)
    return {image: tuple(regions) for image, regions in found.items()}

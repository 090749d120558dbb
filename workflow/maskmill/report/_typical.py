"""The most typical pieces of each cluster: regions closest to the centroid, or windows that a cluster fills."""

from __future__ import annotations

import hashlib
import heapq
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from maskmill.images.sample import Sample, read_images
from maskmill.report._facts import mask_store
from maskmill.store.artefact import read_table
from maskmill.store.ragged import Ragged

Box = tuple[float, float, float, float]
WINDOW = 0.36  # side of a token recipe's window, share of the image's side
SMALL = 0.02  # clusters below this share of an image are not looked for in it
COARSE = 48  # cells a side that windows are looked for on
SPARE = 4  # candidates kept a wanted region: several of one image count once


@dataclass(frozen=True)
class Piece:
    """One crop: image id, box y0, x0, y1, x1 in 0..1, mask bool [h, w] over the image, and a line of text."""

    image: str
    box: Box
    mask: np.ndarray
    note: str


@dataclass(frozen=True)
class Typical:
    """Pieces by cluster (0..k-1), and the number of regions of each cluster (None for token recipes)."""

    pieces: dict[int, list[Piece]]
    regions: np.ndarray | None


def closest_regions(
    results: Path, recipe: str, seed: int, clusters: int, count: int, sample: Sample, stage: str = "cluster"
) -> Typical:
    """The `count` regions of each cluster with the smallest distance, at most one an image.

    With `stage` taxonomy, of each class. All assignment tables are read, one at a time; region tables and segments only of the shards of what was chosen.
    """
    base = results / "recipes" / recipe
    totals = np.zeros(clusters, np.int64)
    best: dict[int, list[tuple[float, str, int, str]]] = {c: [] for c in range(clusters)}
    for shard in sample.shards:
        table = read_table(base / f"seed{seed}/{stage}/{shard}.parquet", ["image", "region", "cluster", "distance"])
        label, distance = np.asarray(table["cluster"]), np.asarray(table["distance"])
        totals += np.bincount(label[label >= 0], minlength=clusters)[:clusters]  # -1 is noise
        for c in np.unique(label[label >= 0]).tolist() if count else []:
            rows = np.flatnonzero(label == c)
            rows = rows[np.argsort(distance[rows], kind="stable")[: count * SPARE]]
            mine = table.take(rows)
            images, regions = mine["image"].to_pylist(), mine["region"].to_pylist()
            found = [(float(d), i, r, shard) for d, i, r in zip(distance[rows], images, regions, strict=True)]
            best[c] = heapq.nsmallest(count * SPARE, best[c] + found)
    chosen = {c: _one_an_image(rows, count) for c, rows in best.items()}
    return Typical(_region_pieces(base, chosen), totals)


def _one_an_image(rows: list[tuple[float, str, int, str]], count: int) -> list[tuple[float, str, int, str]]:
    first: dict[str, tuple[float, str, int, str]] = {}
    for row in sorted(rows):
        first.setdefault(row[1], row)
    return list(first.values())[:count]


def _region_pieces(base: Path, chosen: dict[int, list[tuple[float, str, int, str]]]) -> dict[int, list[Piece]]:
    """Boxes and masks of the chosen regions, each shard opened once."""
    wanted: dict[str, list[tuple[int, int, float, str, int]]] = {}
    for c, rows in chosen.items():
        for place, (distance, image, region, shard) in enumerate(rows):
            wanted.setdefault(shard, []).append((c, place, distance, image, region))
    found: dict[tuple[int, int], Piece] = {}
    for shard, mine in wanted.items():
        table = read_table(base / f"regions/{shard}.parquet", ["image", "region", "y0", "x0", "y1", "x1"])
        columns = [table[name].to_pylist() for name in ("image", "region", "y0", "x0", "y1", "x1")]
        boxes = {(image, region): box for image, region, *box in zip(*columns, strict=True)}
        segments = read_images(Ragged(base / f"cut/{shard}.zarr", "segments"), list({row[3] for row in mine}))
        for c, place, distance, image, region in mine:
            y0, x0, y1, x1 = boxes[image, region]
            note = f"distance {distance:.3f}"
            found[c, place] = Piece(image, (y0, x0, y1, x1), segments[image] == region, note)
    return {c: [found[c, place] for place in range(len(rows))] for c, rows in chosen.items()}


def fullest_windows(results: Path, recipe: str, seed: int, clusters: int, count: int, sample: Sample) -> Typical:
    """The `count` windows of each cluster that it covers most in the masks of round 0, one an image."""
    best: dict[int, list[tuple[float, str, str, Box]]] = {c: [] for c in range(clusters)}
    for shard, ids in sample.statistics.items() if count else ():
        for image_id, mask in read_images(mask_store(results, recipe, seed, 0, shard), ids).items():
            values, cells = np.unique(mask, return_counts=True)
            coarse = mask[:: max(1, mask.shape[0] // COARSE), :: max(1, mask.shape[1] // COARSE)]
            tie = hashlib.blake2b(image_id.encode(), digest_size=4).hexdigest()  # equals: not all from one folder
            for value in values[(values > 0) & (values <= clusters) & (cells >= SMALL * mask.size)].tolist():
                cover, box = best_window(coarse == value)
                row = (-round(cover, 2), tie, image_id, box)
                best[value - 1] = heapq.nsmallest(count, [*best[value - 1], row])
    wanted: dict[str, set[str]] = {}
    place = {image_id: shard for shard, ids in sample.statistics.items() for image_id in ids}
    for rows in best.values():
        for _, _, image_id, _ in rows:
            wanted.setdefault(place[image_id], set()).add(image_id)
    masks: dict[str, np.ndarray] = {}
    for shard, chosen in wanted.items():
        masks |= read_images(mask_store(results, recipe, seed, 0, shard), sorted(chosen))
    pieces = {
        c: [Piece(i, box, masks[i] == c + 1, f"covers {-cover:.0%} of the crop") for cover, _, i, box in rows]
        for c, rows in best.items()
    }
    return Typical(pieces, None)


def best_window(mask: np.ndarray) -> tuple[float, Box]:
    """(coverage in 0..1, relative box) of the window that a mask [h, w] covers most; the middle one of equals."""
    h, w = mask.shape
    wh, ww = max(1, round(h * WINDOW)), max(1, round(w * WINDOW))
    area = np.pad(mask.astype(np.int64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    total = area[wh:, ww:] - area[:-wh, ww:] - area[wh:, :-ww] + area[:-wh, :-ww]  # [h - wh + 1, w - ww + 1]
    ys, xs = np.nonzero(total == total.max())
    middle = np.argmin((ys - ys.mean()) ** 2 + (xs - xs.mean()) ** 2)
    y, x = int(ys[middle]), int(xs[middle])
    return float(total[y, x] / (wh * ww)), (y / h, x / w, (y + wh) / h, (x + ww) / w)

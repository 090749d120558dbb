"""What can be said of a recipe without labels: shares of the clusters, balance, what a round changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from maskmill.images.masks import ignore_value, to_size
from maskmill.images.sample import Sample, read_images
from maskmill.store.artefact import read_table
from maskmill.store.ragged import Ragged


@dataclass(frozen=True)
class Facts:
    """Measured on the images of `Sample.statistics`, every image weighing the same; cells without data do not count.

    Attributes:
        shares: [rounds + 1, k + 1] float64, share of an image that has each mask value (0 background).
        ignored: [rounds + 1] share of an image that is ignore.
        changed: [rounds + 1] share of the cells labelled before and after whose value changed; NaN for round 0.
    """

    shares: np.ndarray
    ignored: np.ndarray
    changed: np.ndarray

    @property
    def used(self) -> np.ndarray:
        """Clusters that cover anything, [rounds + 1]."""
        return (self.shares[:, 1:] > 0).sum(axis=1)

    @property
    def balance(self) -> np.ndarray:
        """Entropy of the clusters' shares over log k, [rounds + 1]: 1 when all are equally large, 0 for one."""
        return np.array([balance(row[1:]) for row in self.shares])


def balance(shares: np.ndarray) -> float:
    """Entropy of non-negative `shares` [k] over log k; NaN when nothing is covered or k is 1."""
    if shares.sum() <= 0 or len(shares) < 2:
        return float("nan")
    p = shares[shares > 0] / shares.sum()
    return float(-(p * np.log(p)).sum() / np.log(len(shares))) + 0.0


def mask_store(results: Path, recipe: str, seed: int, number: int, shard: str) -> Ragged:
    """The masks of one shard after a round."""
    return Ragged(results / f"recipes/{recipe}/seed{seed}/round{number}/masks/{shard}.zarr", "masks")


def measure(results: Path, recipe: str, seed: int, rounds: int, clusters: int, sample: Sample) -> Facts:
    """Read the masks of all rounds of the sampled images and measure them."""
    shares = np.zeros((rounds + 1, clusters + 1))
    ignored, moved, both = (np.zeros(rounds + 1) for _ in range(3))
    for shard, ids in sample.statistics.items():
        before: dict[str, np.ndarray] = {}
        for r in range(rounds + 1):
            store = mask_store(results, recipe, seed, r, shard)
            now = read_images(store, ids)
            for image_id, mask in now.items():
                cells = shown(mask, store.valid(image_id))
                histogram = np.bincount(cells, minlength=ignore_value(mask.dtype) + 1) / max(1, cells.size)
                shares[r] += histogram[: clusters + 1]
                ignored[r] += histogram[-1]
                if image_id in before:
                    m, b = compare(before[image_id], mask)
                    moved[r], both[r] = moved[r] + m, both[r] + b
            before = now
    images = max(1, sample.measured)
    changed = np.where(both > 0, moved / np.maximum(both, 1e-12), np.nan)
    return Facts(shares / images, ignored / images, changed)


def shown(mask: np.ndarray, valid: np.ndarray | None) -> np.ndarray:
    """The cells [n] of a mask that show data."""
    return mask.ravel() if valid is None else mask[valid]


def region_counts(results: Path, recipe: str, seed: int, clusters: int, shards: Sequence[str]) -> np.ndarray:
    """Regions of every cluster in all images, int64 [k]: all tables of assignments are read, one at a time."""
    totals = np.zeros(clusters, np.int64)
    for shard in shards:
        table = read_table(results / f"recipes/{recipe}/seed{seed}/cluster/{shard}.parquet", ["cluster"])
        label = np.asarray(table["cluster"])
        totals += np.bincount(label[label >= 0], minlength=clusters)[:clusters]  # -1 is noise
    return totals


def region_maps(results: Path, recipe: str, seed: int, sample: Sample) -> dict[str, np.ndarray]:
    """{image id: region uint8 [h, w]} of the gallery on the grid of the tokens; 0 where no region was clustered."""
    groups: dict[str, list[str]] = {}
    for picture in sample.gallery:
        groups.setdefault(picture.shard, []).append(picture.id)
    found: dict[str, np.ndarray] = {}
    for shard, ids in groups.items():
        table = read_table(results / f"recipes/{recipe}/seed{seed}/cluster/{shard}.parquet", ["image", "region"])
        known: dict[str, list[int]] = {image_id: [] for image_id in ids}
        for image_id, region in zip(table["image"].to_pylist(), table["region"].to_pylist(), strict=True):
            if image_id in known:
                known[image_id].append(region)
        cut = Ragged(results / f"recipes/{recipe}/cut/{shard}.zarr", "segments")
        cells = int(cut.attrs.get("cells", 1))
        for image_id, segments in read_images(cut, ids).items():
            coarse = segments[cells // 2 :: cells, cells // 2 :: cells]
            found[image_id] = np.where(np.isin(coarse, known[image_id]), coarse, 0).astype(np.uint8)
    return found


def compare(before: np.ndarray, after: np.ndarray) -> tuple[float, float]:
    """(share of an image labelled in both and changed, share labelled in both); masks on any grids."""
    if before.shape != after.shape:
        before = to_size(before, after.shape)
    known = (before != ignore_value(before.dtype)) & (after != ignore_value(after.dtype))
    return float((known & (before != after)).mean()), float(known.mean())

"""What a student sees: feature sets standardised, reduced and laid on one grid, and the targets of the masks.

Images are read from their shards as they are needed; everything kept in memory is bounded by `cache_mib`. Order and
sampling follow the sorted ids, so shards do not matter.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from maskmill.errors import NumericsError, StoreError
from maskmill.images.interpolate import resize_maps
from maskmill.images.masks import ignore_value
from maskmill.numerics.sampling import rng
from maskmill.rounds._masks import Masks
from maskmill.store.ragged import Ragged

FIT_IMAGES = 2048  # images that the projection is fitted on, at most


@dataclass(frozen=True)
class Projection:
    """(tokens - mean) @ weight: standardisation and PCA of one feature set. mean [d], weight [d, p], float32."""

    mean: np.ndarray
    weight: np.ndarray

    def __call__(self, tokens: np.ndarray) -> np.ndarray:
        """Tokens [h, w, d] -> maps [p, h, w] float32."""
        h, w, d = tokens.shape
        if d != len(self.mean):
            raise StoreError(f"features of {d} channels for a student made for {len(self.mean)}; use its own backbone")
        flat = torch.from_numpy(tokens.reshape(h * w, d).astype(np.float32) - self.mean)
        maps = torch.from_numpy(self.weight).T @ flat.T  # [p, h * w]
        return maps.numpy().reshape(-1, h, w)


def fit_projection(rows: np.ndarray, dimensions: int, name: str) -> Projection:
    """Standardise each channel, keep the first principal components, scale them to mean variance 1.

    The components keep their own variances (no whitening): the weak ones are mostly noise. Signs are fixed: the
    largest entry of each component is positive.

    Args:
        rows: [m, d] float32 sample of tokens.

    Raises:
        NumericsError: the sample is constant.
    """
    x = rows.astype(np.float64)
    mean = x.mean(axis=0)
    deviation = x.std(axis=0)
    if not deviation.max(initial=0) > 0:
        raise NumericsError(f"feature set {name!r}: all {len(rows)} sampled tokens are equal; check its backbone")
    scale = np.where(deviation > 1e-6 * deviation.max(), 1 / np.maximum(deviation, 1e-30), 0)  # dead channels drop out
    centred = torch.from_numpy((x - mean) * scale)
    values, vectors = (part.numpy() for part in torch.linalg.eigh(centred.T @ centred / len(x)))
    keep = np.argsort(-values, kind="stable")[: min(dimensions, int((scale > 0).sum()), len(rows))]
    vectors = vectors[:, keep]
    vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(len(keep))])
    total = np.sqrt(values[keep].mean())
    return Projection(mean.astype(np.float32), (scale[:, None] * vectors / total).astype(np.float32))


def align(features: Mapping[str, np.ndarray], projections: Mapping[str, Projection]) -> np.ndarray:
    """Feature sets {name: [h, w, d]} of one image -> [sum p, H, W] float32 on the finest grid.

    Projecting first and interpolating after gives the same as the other way round, in a fraction of the time.
    """
    missing = [name for name in projections if name not in features]
    if missing:
        raise StoreError(f"the student needs the feature sets {', '.join(projections)}; missing: {', '.join(missing)}")
    grids = [features[name].shape[:2] for name in projections]
    size = (max(h for h, _ in grids), max(w for _, w in grids))
    return np.concatenate([resize_maps(project(features[name]), size) for name, project in projections.items()])


def class_shares(mask: np.ndarray, size: tuple[int, int], classes: int) -> np.ndarray:
    """Share of each class among all mask cells of a token, [H, W, classes] float32; ignored cells belong to none.

    Args:
        mask: [hm, wm] uint8 or uint16; a mask cell belongs to the token that holds its centre.

    Raises:
        StoreError: the mask holds a class that there is not.
    """
    (h, w), (height, width) = mask.shape, size
    rows = ((np.arange(h) + 0.5) * height / h).astype(np.int64)
    columns = ((np.arange(w) + 0.5) * width / w).astype(np.int64)
    token = rows[:, None] * width + columns  # [hm, wm]
    known = mask != ignore_value(mask.dtype)
    label = mask[known].astype(np.int64)
    if len(label) and label.max() >= classes:
        raise StoreError(f"masks hold class {label.max()} of {classes - 1} clusters; run paint again")
    counts = np.bincount(token[known] * classes + label, minlength=height * width * classes)
    cells = np.bincount(token.ravel(), minlength=height * width)
    shares = counts.reshape(height * width, classes) / np.maximum(cells, 1)[:, None]
    return shares.reshape(height, width, classes).astype(np.float32)


class LabelledFeatures:
    """Images of several shards: aligned features and class shares by position in the sorted list of ids.

    Args:
        features: {name: stores of all shards}; every image of the masks must be in each set.
        masks: what the round learns from.

    Attributes:
        ids, counts: as in `masks`.
    """

    def __init__(self, features: Mapping[str, Sequence[str | Path]], masks: Masks, cache_mib: int) -> None:
        self.masks, self.classes, self.ids, self.counts = masks, masks.classes, masks.ids, masks.counts
        self.features = {name: _Shards(name, [Ragged(path) for path in paths]) for name, paths in features.items()}
        self.projections: dict[str, Projection] = {}
        self._cache: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._room = cache_mib << 20
        self._lock = threading.Lock()

    def view(self, image_id: str) -> dict[str, np.ndarray]:
        """Stored tokens {name: [h, w, d]} of one image."""
        return {name: shards[image_id] for name, shards in self.features.items()}

    def fit_projections(self, dimensions: int, max_fit_points: int, seed: int) -> None:
        """Fit each feature set's projection on an even, seeded sample of at most FIT_IMAGES images."""
        chosen = rng(seed, "projection").permutation(len(self.ids))[:FIT_IMAGES]
        quota = max(1, max_fit_points // len(chosen))
        for name, shards in self.features.items():
            rows = []
            for i in sorted(chosen):
                image_id = self.ids[i]
                tokens = shards[image_id]
                valid = shards.valid(image_id)
                flat = (tokens.reshape(-1, tokens.shape[2]) if valid is None else tokens[valid]).astype(np.float32)
                pick = rng(seed, name, image_id).permutation(len(flat))[:quota]
                rows.append(flat[np.sort(pick)])
            self.projections[name] = fit_projection(np.concatenate(rows), dimensions, name)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Aligned features [p, H, W] float16 and class shares [H, W, classes] float32 of image i."""
        if i in self._cache:
            x, mask = self._cache[i]
        else:
            image_id = self.ids[i]
            x = align(self.view(image_id), self.projections)
            x, mask = x.astype(np.float16), self.masks[image_id]
            with self._lock:  # which images are held does not matter: the order of reading is random
                if self._room >= x.nbytes + mask.nbytes and i not in self._cache:
                    self._room -= x.nbytes + mask.nbytes
                    self._cache[i] = x, mask
        return x, class_shares(mask, (x.shape[1], x.shape[2]), self.classes)


class _Shards:
    """Stores of all shards, read by image id."""

    def __init__(self, name: str, stores: Sequence[Ragged]) -> None:
        self.name, self.stores = name, stores
        self._place = {image_id: store for store in stores for image_id in store.ids}

    def valid(self, image_id: str) -> np.ndarray | None:
        """Which tokens [h, w] of an image show data; None where all do."""
        return self._place[image_id].valid(image_id)

    def __getitem__(self, image_id: str) -> np.ndarray:
        try:
            return self._place[image_id][image_id]
        except KeyError:
            raise StoreError(f"feature set {self.name!r}: holds no image {image_id!r}; run snakemake again") from None

"""The codebook: the centroids of a clustering, how it is stored, and how vectors are scored against it.

One rule for every method: a vector belongs to the cluster of its nearest centroid. k-means has one centroid a cluster;
other methods have several fine centroids a cluster (`group`), and may call some of them noise.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from maskmill.errors import NumericsError, StoreError
from maskmill.store.artefact import read_tensors, write_tensors
from maskmill.store.provenance import Provenance

BLOCK_BYTES = 32 << 20  # scores held at once by `assign`
ROUNDING = 1e-6  # of a cosine
OWN = ("centroids", "counts", "inertia", "spherical")
Distance = Literal["own", "cosine"]  # see `assign`


@dataclass(frozen=True)
class Codebook:
    """The centroids of one clustering of k clusters, largest cluster first.

    Attributes:
        centroids: [m, d] float32, of unit length when spherical; m = k unless there is a `group`.
        counts: [k] int64, points of the fit in each cluster.
        inertia: sum over the points of the fit of `assign`'s distance.
        spherical: cosine (True) or Euclidean geometry.
        diagnostics: named numbers of the fit, stored beside the centroids.
        hash: hash of what made the codebook (of a codebook that was read).
        group: [m] int32, the cluster 0..k-1 of each centroid, ascending, and last those of noise as -1; None: the
            centroids are the clusters.
    """

    centroids: np.ndarray
    counts: np.ndarray
    inertia: float
    spherical: bool
    diagnostics: Mapping[str, np.ndarray] = field(default_factory=dict)
    hash: str = ""
    group: np.ndarray | None = None

    def __len__(self) -> int:
        """Number of clusters k, noise not counted."""
        return len(self.counts)

    @property
    def noise(self) -> bool:
        """True when some centroids stand for noise."""
        return self.group is not None and bool(len(self.group)) and int(self.group[-1]) < 0

    @property
    def noise_is_background(self) -> bool:
        """True when noise is what a method has found to be background (its diagnostic of this name)."""
        return self.noise and bool(np.any(self.diagnostics.get("noise_is_background", 0)))


def write(path: str | Path, codebook: Codebook, provenance: Provenance | None = None) -> None:
    """Write a codebook as safetensors."""
    write_tensors(path, tensors_of(codebook), provenance)


def tensors_of(codebook: Codebook) -> dict[str, np.ndarray]:
    """The arrays of a codebook by the names that they have in a file."""
    tensors: dict[str, np.ndarray] = {
        "centroids": codebook.centroids.astype(np.float32),
        "counts": codebook.counts.astype(np.int64),
        "inertia": np.array(codebook.inertia, dtype=np.float64),
        "spherical": np.array(codebook.spherical, dtype=np.uint8),
    }
    if codebook.group is not None:
        tensors["group"] = codebook.group.astype(np.int32)
    return dict(codebook.diagnostics) | tensors


def read(path: str | Path) -> Codebook:
    """Read a codebook; a file that is none is a StoreError."""
    tensors, provenance = read_tensors(path)
    return of_tensors(tensors, path, str(provenance.get("hash", "")))


def of_tensors(tensors: Mapping[str, np.ndarray], path: str | Path, hash: str = "") -> Codebook:
    """The codebook of `tensors_of`; `path` is named where it is none, which is a StoreError."""
    missing = [name for name in OWN if name not in tensors]
    if missing:
        raise StoreError(f"{path}: not a codebook (no {', '.join(missing)}); check the path")
    group, wanted = tensors.get("group"), len(tensors["counts"])
    rows = np.arange(wanted) if group is None else np.where(group < 0, wanted, group)
    if len(rows) != len(tensors["centroids"]) or (np.diff(rows, prepend=0) < 0).any() or (rows > wanted).any():
        raise StoreError(f"{path}: a codebook whose centroids do not fit its clusters; delete it and run again")
    return Codebook(
        tensors["centroids"],
        tensors["counts"],
        float(tensors["inertia"]),
        bool(tensors["spherical"]),
        {name: value for name, value in tensors.items() if name not in (*OWN, "group")},
        hash,
        group,
    )


def fingerprint(codebook: Codebook) -> str:
    """16 hex digits of the clusters themselves: the same for codebooks that give every vector the same cluster."""
    total = hashlib.blake2b(np.ascontiguousarray(codebook.centroids, np.float32).tobytes(), digest_size=8)
    total.update(f"{codebook.centroids.shape}\0{codebook.spherical}\0".encode())
    if codebook.group is not None:
        total.update(np.ascontiguousarray(codebook.group, np.int32).tobytes())
    return total.hexdigest()


def scores(x: np.ndarray, codebook: Codebook) -> np.ndarray:
    """How well each cluster fits each vector: [n, k] float32, larger is closer; with noise [n, k + 1], noise last.

    Cosine similarity to the cluster's nearest centroid for a spherical codebook (0 for a vector of zeros), else the
    negative squared distance.

    Args:
        x: [n, d] float16 or float32.

    Raises:
        NumericsError: another number of dimensions, or NaN in `x`.
    """
    value = _centroid_scores(x, codebook)
    if codebook.group is None:
        return value
    starts = np.flatnonzero(np.diff(codebook.group, prepend=-2))
    return np.asarray(np.maximum.reduceat(value, starts, axis=1))


def _centroid_scores(x: np.ndarray, codebook: Codebook) -> np.ndarray:
    """`scores` of each centroid instead of each cluster, [n, m] float32."""
    import torch

    x = np.ascontiguousarray(x, dtype=np.float32)
    if x.ndim != 2 or x.shape[1] != codebook.centroids.shape[1]:
        raise NumericsError(
            f"vectors of shape {x.shape} do not fit a codebook of {codebook.centroids.shape[1]} dimensions; "
            "they must come from the same features and reduction as the clustering"
        )
    if codebook.spherical:
        points, centroids = torch.from_numpy(x), torch.from_numpy(codebook.centroids)
        norms = torch.linalg.vector_norm(points, dim=1, keepdim=True)  # [m, 1]
        value = (points @ centroids.T).div_(norms.clamp_min(torch.finfo(torch.float32).tiny))
    else:
        # Distances do not change under a shift; around the centroids' mean float32 cancels less.
        shift = codebook.centroids.mean(axis=0)
        points, centroids = torch.from_numpy(x - shift), torch.from_numpy(codebook.centroids - shift)
        value = torch.addmm(centroids.square().sum(1), points, centroids.T, beta=-1, alpha=2)
        value = value.sub_(points.square().sum(1, keepdim=True)).clamp_max_(0)
    if not bool(torch.isfinite(value).all()):
        raise NumericsError("vectors hold NaN or infinite values; check the features or the reduction that made them")
    return np.asarray(value.numpy())


def _away(cosine: np.ndarray) -> np.ndarray:
    """1 - cosine, 0 within float32's rounding: a vector is at its own centroid, and none is nearer by noise."""
    distance = np.maximum(1 - cosine, 0)
    return np.where(distance < ROUNDING, np.float32(0), distance)


def _cosine(x: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Cosine [n] float64 of vectors [n, d] with as many centroids [n, d]; 0 where one of them is zero."""
    x, centroids = x.astype(np.float64), centroids.astype(np.float64)
    length = np.linalg.norm(x, axis=1) * np.linalg.norm(centroids, axis=1)
    return np.asarray(np.einsum("nd,nd->n", x, centroids) / np.where(length > 0, length, 1))


def assign(x: np.ndarray, codebook: Codebook, distance: Distance = "own") -> tuple[np.ndarray, np.ndarray]:
    """The cluster of the closest centroid of each vector and the distance to that centroid.

    Args:
        x: [n, d] float16 or float32; never more than BLOCK_BYTES of scores are held.
        distance: own: that of the codebook, 1 - cosine where it is spherical, else the squared Euclidean distance;
            cosine: 1 - cosine with the centroid that is the closest by the codebook's own distance.

    Returns:
        labels [n] int32 (the lower one of equals, -1 for noise) and distances [n] float32.
    """
    labels, distances = np.zeros(len(x), np.int32), np.zeros(len(x), np.float32)
    step = max(1, BLOCK_BYTES // (4 * len(codebook.centroids)))
    for start in range(0, len(x), step):
        rows = x[start : start + step]
        value = _centroid_scores(rows, codebook)
        best = value.argmax(axis=1)  # groups ascend and noise is last: the first of equals has the lower label
        labels[start : start + step] = best if codebook.group is None else codebook.group[best]
        closest = np.take_along_axis(value, best[:, None], 1)[:, 0]
        if distance == "cosine" and not codebook.spherical:
            distances[start : start + step] = _away(_cosine(rows, codebook.centroids[best]))
        else:
            distances[start : start + step] = _away(closest) if codebook.spherical else -closest
    return labels, distances

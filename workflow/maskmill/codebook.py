"""The codebook: the centroids of a clustering, how it is stored, and how vectors are scored against it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from maskmill.artefact import Provenance, read_tensors, write_tensors
from maskmill.errors import NumericsError, StoreError

BLOCK_BYTES = 32 << 20  # scores held at once by `assign`
OWN = ("centroids", "counts", "inertia", "spherical")


@dataclass(frozen=True)
class Codebook:
    """The centroids of one clustering, largest cluster first.

    Attributes:
        centroids: [k, d] float32, of unit length when spherical.
        counts: [k] int64, points of the fit in each cluster.
        inertia: sum over the points of the fit of `assign`'s distance.
        spherical: cosine (True) or Euclidean geometry.
        diagnostics: named numbers of the fit, stored beside the centroids.
        hash: hash of what made the codebook (of a codebook that was read).
    """

    centroids: np.ndarray
    counts: np.ndarray
    inertia: float
    spherical: bool
    diagnostics: Mapping[str, np.ndarray] = field(default_factory=dict)
    hash: str = ""

    def __len__(self) -> int:
        return len(self.centroids)


def write(path: str | Path, codebook: Codebook, provenance: Provenance | None = None) -> None:
    """Write a codebook as safetensors."""
    tensors: dict[str, np.ndarray] = {
        "centroids": codebook.centroids.astype(np.float32),
        "counts": codebook.counts.astype(np.int64),
        "inertia": np.array(codebook.inertia, dtype=np.float64),
        "spherical": np.array(codebook.spherical, dtype=np.uint8),
    }
    write_tensors(path, dict(codebook.diagnostics) | tensors, provenance)


def read(path: str | Path) -> Codebook:
    """Read a codebook; a file that is none is a StoreError."""
    tensors, provenance = read_tensors(path)
    missing = [name for name in OWN if name not in tensors]
    if missing:
        raise StoreError(f"{path}: not a codebook (no {', '.join(missing)}); check the path")
    return Codebook(
        tensors["centroids"],
        tensors["counts"],
        float(tensors["inertia"]),
        bool(tensors["spherical"]),
        {name: value for name, value in tensors.items() if name not in OWN},
        str(provenance.get("hash", "")),
    )


def scores(x: np.ndarray, codebook: Codebook) -> np.ndarray:
    """How well each centroid fits each vector: [m, k] float32, larger is closer.

    Cosine similarity for a spherical codebook (0 for a vector of zeros), else the negative squared distance.

    Args:
        x: [m, d] float16 or float32.

    Raises:
        NumericsError: another number of dimensions, or NaN in `x`.
    """
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
    return value.numpy()


def assign(x: np.ndarray, codebook: Codebook) -> tuple[np.ndarray, np.ndarray]:
    """The closest centroid of each vector and the distance to it.

    Args:
        x: [m, d] float16 or float32; never more than BLOCK_BYTES of scores are held.

    Returns:
        labels [m] int32 (the lower one of equals) and distances [m] float32: 1 - cosine for a spherical codebook,
        else the squared Euclidean distance.
    """
    labels, distances = np.zeros(len(x), np.int32), np.zeros(len(x), np.float32)
    step = max(1, BLOCK_BYTES // (4 * len(codebook)))
    for start in range(0, len(x), step):
        value = scores(x[start : start + step], codebook)
        best = value.argmax(axis=1)
        labels[start : start + step] = best
        closest = np.take_along_axis(value, best[:, None], 1)[:, 0]
        distances[start : start + step] = np.maximum(1 - closest, 0) if codebook.spherical else -closest
    return labels, distances

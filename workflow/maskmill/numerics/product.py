"""Optimised product quantisation: a rotation and 256 centroids a part, fitted on a sample; and encoding.

Ge, He, Ke, Sun, Optimized product quantization for approximate nearest neighbor search, CVPR 2013, the parametric
solution (section 4): principal directions, dealt out to the parts so that the products of their variances are alike.
Then Jegou et al. (PAMI 2011): k-means in each part. The k-means is that of `maskmill.numerics.kmeans`.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from maskmill.errors import NumericsError
from maskmill.store.product import LETTERS, Codec

if TYPE_CHECKING:
    import torch

ITERATIONS = 25  # of k-means at a level: four times as many lower the error of unseen tokens by a thousandth of it
TOLERANCE = 1e-3
BLOCK = 8192  # rows whose products are held at once by the fit
SCORES = 1 << 22  # distances that are held at once by an encoder


def fit(x: np.ndarray, size: int, rotate: bool, seed: int) -> tuple[Codec, dict[str, float]]:
    """A codec of `size` bytes for vectors like x [n, d] float32; `size` divides d.

    The result depends on x, its order, and the arguments, and not on the number of threads.

    Returns:
        the codec; and diagnostics: points, letters (the least number of centroids of any part), error (the mean squared
        error of the points over their variance).

    Raises:
        NumericsError: no points, or NaN or infinite values.
    """
    from maskmill.numerics.blocks import one_thread

    if not len(x) or not np.isfinite(x).all():
        raise NumericsError("features: there are no tokens to fit a codec on, or some are NaN or infinite")
    with one_thread():
        moment = _covariance(x)
        rotation = _rotation(moment, size) if rotate else np.eye(x.shape[1], dtype=np.float32)
    length = x.shape[1] // size
    centroids = np.zeros((size, LETTERS, length), np.float32)
    least, error = LETTERS, 0.0
    for part in range(size):
        with one_thread():
            rows = _rotated(x, rotation[part * length : (part + 1) * length])  # [n, length]
        found, inertia = _letters(rows, seed)
        centroids[part, : len(found)], centroids[part, len(found) :] = found, found[-1]
        least, error = min(least, len(found)), error + inertia
    variance = float(np.trace(moment)) * len(x)
    if len(x) < LETTERS or least < LETTERS:
        print(
            f"features: warning: {len(x)} tokens take {least} values in a part of a code, so there are no {LETTERS} "
            "centroids; they are stored as they are, and others by the nearest of them",
            file=sys.stderr,
        )
    shares = {"points": float(len(x)), "letters": float(least), "error": error / variance if variance > 0 else 0.0}
    return Codec(rotation, centroids), shares


def _covariance(x: np.ndarray) -> np.ndarray:
    """Of x [n, d]: [d, d] float64, in fixed blocks."""
    import torch

    mean = x.mean(axis=0, dtype=np.float64)
    moment = torch.zeros(x.shape[1], x.shape[1], dtype=torch.float64)
    for start in range(0, len(x), BLOCK):
        rows = torch.from_numpy(x[start : start + BLOCK].astype(np.float64) - mean)
        moment += rows.T @ rows
    return np.asarray(moment.numpy() / len(x))


def _rotation(moment: np.ndarray, size: int) -> np.ndarray:
    """Principal directions as rows [d, d] float32, those of one part side by side."""
    import torch

    variance, vectors = (np.asarray(part.numpy()) for part in torch.linalg.eigh(torch.from_numpy(moment)))
    variance, vectors = variance[::-1], vectors[:, ::-1]
    signs = np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(len(variance))])
    return np.ascontiguousarray((vectors * signs).T[allocate(variance, size)], np.float32)


def allocate(variance: np.ndarray, parts: int) -> np.ndarray:
    """Order [d] of the directions, part after part, for variances [d] that descend.

    Each direction in turn goes to the part whose product of variances is the smallest so far and which is not full.
    Variances are in units of the smallest one, so that no product falls as it grows; one below 1e-9 of the largest
    counts as that.
    """
    length = len(variance) // parts
    floor = max(float(variance[0]) * 1e-9, np.finfo(np.float64).tiny)
    logs = np.log(np.maximum(variance, floor))
    logs -= logs.min()
    products, dealt = np.zeros(parts), [list[int]() for _ in range(parts)]
    for direction, log in enumerate(logs):
        part = min((p for p in range(parts) if len(dealt[p]) < length), key=lambda p: (products[p], len(dealt[p]), p))
        dealt[part].append(direction)
        products[part] += log
    return np.concatenate([np.array(directions) for directions in dealt])


def _rotated(x: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """X [n, d] along some directions [s, d]: [n, s] float32, in fixed blocks."""
    import torch

    along = torch.from_numpy(np.ascontiguousarray(directions.T))
    parts = [torch.from_numpy(x[start : start + BLOCK]) @ along for start in range(0, len(x), BLOCK)]
    return np.ascontiguousarray(torch.cat(parts).numpy())


def _letters(rows: np.ndarray, seed: int) -> tuple[np.ndarray, float]:
    """At most 256 centroids [k, s] of a part's rows [n, s], and the sum of squared distances to them.

    No more different rows than that are their own centroids, in order.
    """
    from maskmill.numerics.kmeans import Settings
    from maskmill.numerics.kmeans import fit as kmeans
    from maskmill.numerics.points import prepare

    seen = prepare(rows, False, 1, "features").array  # as k-means sees them: rows may differ by rounding alone
    assert seen is not None
    if len(np.unique(seen[: 4 * LETTERS], axis=0)) <= LETTERS:
        different = np.unique(seen, axis=0, return_index=True)[1]
        if len(different) <= LETTERS:
            return rows[np.sort(different)], 0.0
    settings = Settings(clusters=LETTERS, spherical=False, restarts=1, iterations=ITERATIONS, tolerance=TOLERANCE)
    book, _ = kmeans(rows, settings, seed, "cpu", "features.pq.bytes")
    return book.centroids, book.inertia


class Encoder:
    """Vectors -> codes of a codec, on one device."""

    def __init__(self, codec: Codec, device: torch.device | str = "cpu") -> None:
        import torch

        self.codec = codec
        self.rotation = torch.from_numpy(codec.rotation).to(device).T.contiguous()  # [d, d]
        centroids = torch.from_numpy(codec.centroids).to(device)  # [m, 256, s]
        self.lengths = centroids.square().sum(2)[:, None]  # [m, 1, 256]
        self.scaled = (-2 * centroids).transpose(1, 2).contiguous()  # [m, s, 256]
        self.rows = max(1, SCORES // (codec.bytes * LETTERS))

    def codes(self, x: torch.Tensor) -> torch.Tensor:
        """Vectors [..., d] float32 -> codes [..., bytes] uint8: in each part the nearest centroid, the first of equals.

        What is not finite gets any code: see `finite`.
        """
        import torch

        flat = x.reshape(-1, x.shape[-1])
        out = torch.empty((len(flat), self.codec.bytes), dtype=torch.uint8, device=flat.device)
        for start in range(0, len(flat), self.rows):
            rotated = flat[start : start + self.rows] @ self.rotation
            parts = rotated.view(len(rotated), self.codec.bytes, -1).transpose(0, 1)  # [m, rows, s]
            out[start : start + self.rows] = torch.baddbmm(self.lengths, parts, self.scaled).argmin(2).T.to(torch.uint8)
        return out.view(*x.shape[:-1], self.codec.bytes)

    def as_stored(self, x: torch.Tensor) -> np.ndarray:
        """Vectors [h, w, d] as a store of their codes gives them back; NaN or infinite values are a NumericsError."""
        if not finite(x[None])[0]:
            raise NumericsError("NaN or infinite tokens; check the photo and the backbone")
        codes = self.codes(x).cpu().numpy()
        return self.codec.decode(codes.reshape(-1, self.codec.bytes)).reshape(x.shape)


def finite(x: torch.Tensor) -> torch.Tensor:
    """Which of the vectors' images [b, ...] are finite throughout, bool [b]."""
    flags: Any = x.flatten(1).isfinite().all(1)
    return flags

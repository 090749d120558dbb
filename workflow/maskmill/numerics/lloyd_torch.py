"""One exact k-means step in plain torch, for one or several CUDA devices: chunks of rows, one-hot products for sums.

One process drives all devices: the points are held once in host memory, and every device keeps a run of their chunks.
A chunk is cut and summed in the same way wherever it lies, and chunks are added as integers, whose sum has no order:
the result has the same bits on any number of equal devices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

CHUNK_BYTES = 256 << 20  # distances and one-hot rows held at once


@dataclass
class Share:
    """The points of one device: x [m, d] float32, the label [m] of each and the centroids [k, d] behind it."""

    x: torch.Tensor
    labels: torch.Tensor
    centroids: torch.Tensor

    @classmethod
    def of(cls, x: np.ndarray, device: torch.device) -> Share:
        """Points [m, d] without labels yet."""
        rows = torch.from_numpy(x).to(device)
        return cls(rows, torch.zeros(len(rows), dtype=torch.int64, device=device), rows[:0])


class TorchEngine:
    """Prepared points [n, d] float32 on devices.

    Sums are float32 within a chunk and fixed-point int64 across chunks, with the finest step that cannot overflow.
    One-hot products instead of atomic additions: the same bits at every run.
    """

    def __init__(
        self, x: np.ndarray, clusters: int, devices: torch.device | Sequence[torch.device], chunk: int | None = None
    ) -> None:
        self.k = clusters
        self.chunk = chunk or int(max(1024, min(65536, CHUNK_BYTES // (8 * clusters))))
        self.steps = 2.0 ** (61 - np.frexp(max(1, len(x)) * (float(np.abs(x).max(initial=0)) or 1.0))[1])
        places = [devices] if isinstance(devices, torch.device) else list(devices)
        chunks = -(-len(x) // self.chunk)
        ends = [self.chunk * (chunks * (i + 1) // len(places)) for i in range(len(places))]
        self.shares = [
            Share.of(x[start:end], place)
            for place, start, end in zip(places, [0, *ends], ends, strict=False)
            if start < min(end, len(x))
        ]

    def step(self, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Label every point with its closest centroid [k, d] float32: sums [k, d] float64, counts [k] int64."""
        c = torch.from_numpy(np.ascontiguousarray(centroids, np.float32))
        found = [self._label(share, c) for share in self.shares]  # CUDA devices work side by side: nothing waits here
        sums = sum((part[0].cpu() for part in found), torch.zeros(c.shape, dtype=torch.int64))
        counts = sum((part[1].cpu() for part in found), torch.zeros(self.k, dtype=torch.int64))
        return sums.numpy() / self.steps, counts.numpy()

    def _label(self, share: Share, centroids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Sums [k, d] in steps and counts [k], int64, of one device's points."""
        c = share.centroids = centroids.to(share.x.device)
        c2 = c.square().sum(1)
        sums = torch.zeros(c.shape, dtype=torch.int64, device=c.device)
        counts = torch.zeros(self.k, dtype=torch.int64, device=c.device)
        for x, labels in zip(share.x.split(self.chunk), share.labels.split(self.chunk), strict=True):
            labels.copy_(torch.addmm(c2, x, c.T, alpha=-2).argmin(1))  # [b]
            member = torch.zeros(len(x), self.k, device=c.device).scatter_(1, labels[:, None], 1.0)  # [b, k]
            sums += ((member.T @ x).double() * self.steps).round().long()
            counts += member.sum(0).long()  # exact: fewer than 2^24 rows a chunk
        return sums, counts

    def farthest(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The `count` points farthest from their centroid, the lower row first among equals: distances, points."""
        found = [self._farthest(share, count) for share in self.shares]
        distance, points = np.concatenate([part[0] for part in found]), np.concatenate([part[1] for part in found])
        rows = np.argsort(-distance, kind="stable")[:count]
        return distance[rows], points[rows]

    def _farthest(self, share: Share, count: int) -> tuple[np.ndarray, np.ndarray]:
        parts = [
            torch.linalg.vector_norm(x - share.centroids[label], dim=1)
            for x, label in zip(share.x.split(self.chunk), share.labels.split(self.chunk), strict=True)
        ]
        distance = torch.cat(parts)
        rows = torch.sort(distance, descending=True, stable=True).indices[:count]
        return distance[rows].cpu().numpy(), share.x[rows].cpu().numpy()

"""One exact k-means step in plain torch, for CUDA: chunks of rows, one-hot products for the sums."""

from __future__ import annotations

import numpy as np
import torch

CHUNK_BYTES = 256 << 20  # distances and one-hot rows held at once


class TorchEngine:
    """Prepared points [n, d] float32 on a device. The sums are float32 within a chunk and float64 across chunks.

    One-hot products instead of atomic additions: the same bits at every run.
    """

    def __init__(self, x: np.ndarray, clusters: int, device: torch.device, chunk: int | None = None) -> None:
        self.x = torch.from_numpy(x).to(device)
        self.k = clusters
        self.chunk = chunk or int(max(1024, min(65536, CHUNK_BYTES // (8 * clusters))))
        self.labels = torch.zeros(len(x), dtype=torch.int64, device=device)
        self.centroids = torch.zeros(0)

    def step(self, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Label every point with its closest centroid [k, d] float32: sums [k, d] float64, counts [k] int64."""
        c = self.centroids = torch.from_numpy(np.ascontiguousarray(centroids, np.float32)).to(self.x.device)
        c2 = c.square().sum(1)
        sums = torch.zeros(c.shape, dtype=torch.float64, device=c.device)
        counts = torch.zeros(self.k, dtype=torch.int64, device=c.device)
        for start in range(0, len(self.x), self.chunk):
            x = self.x[start : start + self.chunk]  # [b, d]
            label = torch.addmm(c2, x, c.T, alpha=-2).argmin(1)  # [b]
            self.labels[start : start + self.chunk] = label
            member = torch.zeros(len(x), self.k, device=c.device).scatter_(1, label[:, None], 1.0)  # [b, k]
            sums += (member.T @ x).double()
            counts += member.sum(0).long()  # exact: fewer than 2^24 rows a chunk
        return sums.cpu().numpy(), counts.cpu().numpy()

    def farthest(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The `count` points farthest from their centroid, the lower row first among equals: distances, points."""
        parts = [
            torch.linalg.vector_norm(x - self.centroids[label], dim=1)
            for x, label in zip(self.x.split(self.chunk), self.labels.split(self.chunk), strict=True)
        ]
        distance = torch.cat(parts)
        rows = torch.sort(distance, descending=True, stable=True).indices[:count]
        return distance[rows].cpu().numpy(), self.x[rows].cpu().numpy()

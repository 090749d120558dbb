"""DeepCluster's alternation: vectors of all photos are clustered, and the clusters are what a pass over them predicts.

Formulas: DeepCluster-v2, appendix of Caron, Misra, Mairal, Goyal, Bojanowski and Joulin (NeurIPS 2020), as in
`main_deepclusterv2.py` of its code.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from maskmill.pretrain._heads import unit

IGNORED = -100  # the cluster of a photo that has no vector yet
BLOCK_BYTES = 64 << 20  # similarities that are held at once


@torch.no_grad()
def spherical_kmeans(vectors: torch.Tensor, start: torch.Tensor, iterations: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Lloyd's iterations by the cosine; a cluster that is empty keeps its centroid.

    Sums are matrix products, so that they are the same in every run on CUDA too.

    Args:
        vectors: [n, c] of unit length. start: [k, c], first centroids.

    Returns:
        centroids [k, c] of unit length, and the nearest one of each vector int64 [n].
    """
    centroids = start.clone()
    for _ in range(iterations):
        sums, counts = torch.zeros_like(centroids), centroids.new_zeros(len(centroids))
        for rows, nearest in _blocks(vectors, centroids):
            members = torch.nn.functional.one_hot(nearest, len(centroids)).to(vectors.dtype)
            sums += members.T @ rows
            counts += members.sum(0)
        centroids = unit(torch.where(counts[:, None] > 0, sums / counts.clamp_min(1)[:, None], centroids))
    return centroids, torch.cat([nearest for _, nearest in _blocks(vectors, centroids)])


def _blocks(vectors: torch.Tensor, centroids: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Rows of the vectors, and the nearest centroid of each; the first of equals."""
    for rows in vectors.split(max(1, BLOCK_BYTES // (4 * len(centroids)))):
        yield rows, (rows @ centroids.T).argmax(1)


def cluster_loss(scores: torch.Tensor, clusters: torch.Tensor, temperature: float) -> torch.Tensor:
    """Mean cross-entropy of the clusters of photos given the scores of all their crops.

    Args:
        scores: [crops, n, k], cosines with the centroids. clusters: int64 [n], IGNORED ones do not count.
    """
    known = clusters != IGNORED
    logs = (scores / temperature).log_softmax(2)
    found = logs.gather(2, clusters.clamp_min(0)[None, :, None].expand(len(scores), -1, 1))[..., 0]
    return -(found * known).sum() / (known.sum() * len(scores)).clamp_min(1)

"""k-means, spherical or Euclidean: k-means++ seeds, restarts on a sample, then exact Lloyd iterations on all points.

Lloyd, Least squares quantization in PCM (1982). Seeds: Arthur and Vassilvitskii, k-means++ (2007). Spherical: Dhillon
and Modha, Concept decompositions (2001). Iterations skip points whose label provably stays: Hamerly, Making k-means
even faster (2010); on the unit sphere the chord is a metric, so the same bounds serve both geometries.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from maskmill.numerics.kmeans_settings import Course as Course
from maskmill.numerics.kmeans_settings import Settings as Settings

if TYPE_CHECKING:
    from maskmill.numerics.points import Source
    from maskmill.store.codebook import Codebook


def fit(
    source: Source, params: Settings, seed: int, device: str = "auto", key: str = "cluster.clusters"
) -> tuple[Codebook, dict[str, Any]]:
    """Cluster points; the result depends on the points, their order, the parameters and the seed.

    Args:
        source: [m, d] floats in memory, or a function that returns an iterator over blocks [b, d] of them, always
            in the same order; it is called once an iteration and no more than a block is held.
        seed: of the seeding. The number of threads (torch.get_num_threads()) does not change the result.
        device: auto, cpu, cuda or cuda:0.
        key: the key of the configuration that says the number of clusters, for messages.

    Returns:
        the codebook, clusters ordered by size, and diagnostics: iterations, converged, levels (points a level),
        restart_inertia, history (inertia before each iteration on all points), repaired (empty clusters refilled).

    Raises:
        NumericsError: NaN or infinite values, or fewer distinct points than clusters.
    """
    from maskmill.numerics.kmeans_levels import solve

    return solve(source, params, seed, device, key)

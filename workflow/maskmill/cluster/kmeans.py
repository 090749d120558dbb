"""k-means, spherical or Euclidean; see `maskmill.numerics.kmeans`, where its sources are named."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from maskmill.cluster import Traits
from maskmill.numerics import kmeans

if TYPE_CHECKING:
    from maskmill.numerics.points import Source
    from maskmill.store.codebook import Codebook

TRAITS = Traits()


class Params(kmeans.Settings):
    """Parameters of k-means."""


def fit(source: Source, params: Params, seed: int, device: str = "auto") -> tuple[Codebook, dict[str, Any]]:
    """Cluster points; see `maskmill.numerics.kmeans.fit`."""
    return kmeans.fit(source, params, seed, device)

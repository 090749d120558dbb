"""k-means, spherical or Euclidean; see `maskmill.numerics.kmeans`, where its sources are named."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from maskmill.cluster import Traits
from maskmill.cluster._number import NumberParams, UpTo65534
from maskmill.numerics import kmeans

if TYPE_CHECKING:
    from maskmill.cluster._auto import Fits
    from maskmill.numerics.points import Source
    from maskmill.store.codebook import Codebook

TRAITS = Traits(counted=True)


class Params(NumberParams, kmeans.Course):
    """Parameters of k-means."""

    clusters: UpTo65534 = Field(
        8, description="number of clusters k; 1: every region is of one class; auto: chosen from the data"
    )


def fit(source: Source, params: Params, seed: int, device: str = "auto") -> tuple[Codebook, dict[str, Any]]:
    """Cluster points; see `maskmill.numerics.kmeans.fit`."""
    own = kmeans.Settings(clusters=params.count, **params.model_dump(include=set(kmeans.Course.model_fields)))
    return kmeans.fit(source, own, seed, device)


def several(params: Params) -> Fits:
    """Codebooks of several numbers; see `maskmill.cluster.Method`."""
    from maskmill.cluster import _auto

    return _auto.by_kmeans(params.spherical)

"""STEGO's cluster probe: prototypes that follow the vectors by gradient steps, batch after batch.

Hamilton et al., "Unsupervised semantic segmentation by distilling feature correspondences" (ICLR 2022), and its code
(modules.py, ClusterLookup): k directions, drawn at random; the loss of a batch is minus the mean of each vector's
largest cosine, and Adam follows it. This is spherical k-means with small steps in place of means. Prototypes that are
nobody's nearest get no gradient and stay where they were drawn, so that fewer than k clusters may have points.

The published probe learns beside the head, from codes that still change; here the vectors are given. A head's own
prototypes are the method `prototypes`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from maskmill.cluster import Traits
from maskmill.cluster._number import From2To65534, NumberParams
from maskmill.errors import NumericsError

if TYPE_CHECKING:
    import torch

    from maskmill.cluster._auto import Fits
    from maskmill.numerics.points import PreparedPoints, Source
    from maskmill.store.codebook import Codebook

TRAITS = Traits(counted=True)


class Params(NumberParams):
    """Parameters of the cluster probe."""

    clusters: From2To65534 = Field(8, description="number of prototypes k; auto: chosen from the data, by k-means")
    steps: int = Field(5000, ge=1, description="optimiser steps")
    batch_size: int = Field(12_544, ge=1, description="vectors a step; 12544: sixteen images of 28 x 28 tokens")
    learning_rate: float = Field(5e-3, gt=0, description="Adam")


def fit(source: Source, params: Params, seed: int, device: str = "auto") -> tuple[Codebook, dict[str, Any]]:
    """Cluster points; see `maskmill.cluster.Method`.

    Returns:
        a spherical codebook, largest cluster first; diagnostics: loss (of the last batch), unused (prototypes that
        take no point).

    Raises:
        NumericsError: NaN or infinite values, or one prototype takes everything.
    """
    from maskmill.cluster._directions import codebook_of_directions
    from maskmill.device import pick
    from maskmill.numerics.blocks import one_thread
    from maskmill.numerics.neighbours import unit_rows
    from maskmill.numerics.points import prepare

    with one_thread() as threads:  # no sum depends on the number of threads
        points = prepare(source, True, threads)
        weight, value = train(_held(points, seed), params, seed, pick(device))
        book, unused = codebook_of_directions(unit_rows(weight), source, loss=value)
    if len(book) - unused < 2:
        raise NumericsError("cluster: one prototype takes every vector; use another seed, or cluster.method: kmeans")
    return book, {"loss": value, "unused": unused}


def several(params: Params) -> Fits:
    """Codebooks of several numbers, by k-means, which minimises the same; see `maskmill.cluster.Method`."""
    from maskmill.cluster import _auto

    return _auto.by_kmeans(spherical=True)


def _held(points: PreparedPoints, seed: int) -> np.ndarray:
    """Unit vectors [n, d] in memory: all of them, or as many as fit, drawn at random."""
    from maskmill.numerics.points import MEMORY_BYTES
    from maskmill.numerics.sampling import rng

    if points.array is not None:
        return points.array
    most = min(points.count, max(1, MEMORY_BYTES // (4 * points.depth)))
    return points.take(np.sort(rng(seed, "online", "held").choice(points.count, most, replace=False, shuffle=False)))


def start(clusters: int, depth: int, seed: int) -> np.ndarray:
    """Prototypes [k, d] float32 before the first step: standard normal numbers, as published."""
    from maskmill.numerics.sampling import rng

    return rng(seed, "online", "start").standard_normal((clusters, depth)).astype(np.float32)


def train(x: np.ndarray, params: Params, seed: int, place: torch.device) -> tuple[np.ndarray, float]:
    """Prototypes [k, d] after all steps, of any length, and the loss of the last batch; x [n, d] of unit length."""
    import torch

    from maskmill.numerics.sampling import batch_rows

    weight = torch.from_numpy(start(params.count, x.shape[1], seed)).to(place).requires_grad_()
    optimiser = torch.optim.Adam([weight], lr=params.learning_rate)
    value = torch.zeros(())
    size, points = min(params.batch_size, len(x)), torch.from_numpy(x).to(place)  # once: at most 8 GiB
    for step in range(params.steps):
        rows = torch.from_numpy(batch_rows(step, size, len(x), seed, "online"))
        value = loss(points[rows.to(place)], weight)
        optimiser.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return weight.detach().cpu().numpy(), float(value.detach())


def loss(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Minus the mean of the largest cosine of x [n, d], of unit length, with the prototypes [k, d]; a scalar.

    The gradient goes to the first of equally near prototypes.
    """
    import torch

    cosine = x @ torch.nn.functional.normalize(weight, dim=1).T
    return -cosine.gather(1, cosine.argmax(1, keepdim=True)).mean()

"""Normalised cuts of a local graph of colours (or of any tokens), by recursion or into all groups at once.

Shi, Malik, "Normalized cuts and image segmentation", TPAMI 2000. Weights exp(-|dF|^2 / sigma_F^2) exp(-|dX|^2 /
sigma_X^2) within a radius. Recursion: the second eigenvector is split where the Ncut of several thresholds is least,
and the parts again, cheapest cut first, until `segments` are there or no cut costs less than `stop`. A token is not
joined to itself: with an edge to itself, a lone token of an odd colour would be the cheapest cut of all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from maskmill.cut import Need, Traits
from maskmill.recipe.base import Model

if TYPE_CHECKING:
    from scipy.sparse import csr_array

TRAITS = Traits(outcomes={"cut": 0, "one token": 1, "no structure": 2})
FLOOR = 1e-6  # least weight of a pair within the radius: keeps the graph in one piece
FLAT = 1e-6  # largest difference of features without structure
SHIFT = 1 + 1e-5  # just above the largest eigenvalue of D^-1/2 A D^-1/2
SMALL = 200  # tokens up to which the dense solver is as fast
RESTARTS = 10  # of k-means


class Params(Model):
    """Lengths are shares of the longer side of the image."""

    mode: Literal["recursive", "kway"] = Field("recursive", description="two parts again and again, or all at once")
    segments: int = Field(7, ge=2, le=254, description="groups: at most (recursive) or exactly (kway)")
    stop: float = Field(0.5, gt=0, le=2, description="recursive: cuts of a larger Ncut are not made")
    thresholds: int = Field(20, ge=1, le=1000, description="recursive: places at which a vector may be split")
    partition: Literal["kmeans", "qr"] = Field("qr", description="kway: qr needs no seed")
    sigma_feature: float = Field(0.15, gt=0, description="distance of colours (0..1), or of unit tokens, that counts")
    sigma_place: float = Field(0.1, gt=0, description="distance in the image that counts")
    radius: float = Field(0.1, gt=0, le=0.5, description="tokens further apart are not joined")


def needs(params: Params) -> tuple[Need, ...]:
    """Whether the tokens are colours."""
    return ("backbone",)


def regions_per_image(params: Params, code_length: int) -> int:
    """A segment a group."""
    return params.segments


def cut(
    tokens: np.ndarray, params: Params, seed: int, image_id: str, backbone: str = ""
) -> tuple[np.ndarray, dict[str, Any]]:
    """Groups 1..k (uint8 [h, w]) of tokens [h, w, d], numbered by their first token, row by row.

    F is r, g, b of tokens of the backbone `colour`, else the tokens at length one (|dF|^2 = 2 - 2 cosine).

    Diagnostics:
        confidence: 1 - Ncut / (groups - 1) of all groups; scores float32 [segments]: the same of each group (see
            maskmill.cut._partition). On a local graph both are near 1: compare images, not methods.
        last: Ncut of the last cut made (recursive), lambda_k (kway). groups. outcome: see TRAITS.

    Raises:
        NumericsError: a token is NaN or infinite.
    """
    import torch

    from maskmill.cut._affinity import unit_rows
    from maskmill.cut._partition import compact, padded
    from maskmill.cut._tokens import flat_tokens
    from maskmill.cut._weighted import local_graph
    from maskmill.numerics.sampling import rng
    from maskmill.recipe import backbones

    h, w = tokens.shape[:2]
    flat = flat_tokens(tokens, image_id)
    features = flat[:, :3] if backbones.of(backbone).colours else unit_rows(torch.from_numpy(flat)).numpy()
    if h * w < 2 or float(np.ptp(features, axis=0).max()) <= FLAT:
        outcome = "one token" if h * w < 2 else "no structure"
        nothing = {"confidence": 0.0, "scores": padded(np.zeros(0), params.segments), "last": 0.0, "groups": 0.0}
        return np.zeros((h, w), np.uint8), nothing | {"outcome": float(TRAITS.outcomes[outcome])}
    lengths = {"sigma_feature": params.sigma_feature, "sigma_place": params.sigma_place, "radius": params.radius}
    graph = local_graph(features.reshape(h, w, -1), **lengths, floor=FLOOR)
    generator = rng(seed, image_id, "shi_malik")
    labels, last = (
        _all_at_once(graph, params, generator)
        if params.mode == "kway"
        else recursive(graph, params.segments, params.stop, params.thresholds, generator)
    )
    labels = compact(labels)
    return (labels + 1).reshape(h, w).astype(np.uint8), _diagnostics(graph, labels, last, params)


def recursive(
    graph: csr_array, segments: int, stop: float, thresholds: int, generator: np.random.Generator
) -> tuple[np.ndarray, float]:
    """Labels [n] of a graph [n, n], cut in two again and again, and the Ncut of the last cut made (0: none was)."""
    from maskmill.cut._recursion import recursion

    return recursion(
        graph.shape[0], segments, stop, lambda part: two_parts(graph[part][:, part], thresholds, generator)
    )


def two_parts(graph: csr_array, thresholds: int, generator: np.random.Generator) -> tuple[float, np.ndarray]:
    """The least Ncut of splitting y_2 at `thresholds` evenly spaced values, and the side above it, bool [n].

    A graph in several pieces has a cut that costs 0: the largest piece from the rest. Where there is nothing to cut the
    value is infinite and the side empty.
    """
    from scipy.sparse.csgraph import connected_components

    n = graph.shape[0]
    nothing = np.inf, np.zeros(n, bool)
    if n < 2:
        return nothing
    pieces, piece = connected_components(graph, directed=False)
    if pieces > 1:
        return 0.0, piece == np.bincount(piece).argmax()
    y = first_vectors(graph, 1, generator)[1][0]
    low, high = float(y.min()), float(y.max())
    above = y > np.linspace(low, high, thresholds, endpoint=False)[:, None]  # [t, n]
    costs = ncut_values(graph, above)
    best = int(costs.argmin())
    return (float(costs[best]), above[best]) if np.isfinite(costs[best]) else nothing


def ncut_values(graph: csr_array, sides: np.ndarray) -> np.ndarray:
    """Cut * (1 / vol + 1 / vol of the rest) of sides bool [t, n]: float64 [t], infinite where a side is empty."""
    degree = graph.sum(1)
    inside = sides.astype(np.float64)  # [t, n]
    volume = inside @ degree
    rest = degree.sum() - volume
    between = ((graph @ (1 - inside).T) * inside.T).sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        values = between * (1 / volume + 1 / rest)
    return np.where(sides.any(1) & ~sides.all(1), values, np.inf)


def first_vectors(graph: csr_array, pairs: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """lambda_2 ... lambda_{k+1} [k] and y [k, n] of (D - A) y = lambda D y, float64, for a sparse graph in one piece.

    The matrix is factorised just outside its spectrum, where it is definite: that needs no pivoting, and the time does
    not depend on how close the eigenvalues of a local graph are.
    """
    from scipy.linalg import eigh
    from scipy.sparse import dia_array, eye_array
    from scipy.sparse.linalg import LinearOperator, eigsh, splu

    n = graph.shape[0]
    scale = graph.sum(1) ** -0.5
    diagonal = dia_array((scale[None], [0]), shape=(n, n))
    symmetric = (diagonal @ graph @ diagonal).tocsc()
    if n <= max(SMALL, 4 * pairs):
        theta, v = eigh(symmetric.toarray(), subset_by_index=[max(0, n - 1 - pairs), n - 1])
    else:
        options = {"permc_spec": "MMD_AT_PLUS_A", "diag_pivot_thresh": 0.0, "options": {"SymmetricMode": True}}
        factors = splu((symmetric - SHIFT * eye_array(n)).tocsc(), **options)
        inverse = LinearOperator((n, n), factors.solve, dtype=np.float64)
        start = generator.standard_normal(n)
        theta, v = eigsh(symmetric, pairs + 1, sigma=SHIFT, which="LM", v0=start, OPinv=inverse)
    order = np.argsort(-theta)[1:]
    y = (scale[:, None] * v[:, order]).T
    peak = np.abs(y) >= (1 - 1e-6) * np.abs(y).max(1, keepdims=True)
    signs = np.sign(np.take_along_axis(y, peak.argmax(1)[:, None], 1))
    return 1 - theta[order], y * signs


def _all_at_once(graph: csr_array, params: Params, generator: np.random.Generator) -> tuple[np.ndarray, float]:
    """Labels [n] by the first eigenvectors, as many as segments, and the last eigenvalue."""
    from maskmill.cut._partition import by_kmeans, by_qr

    n = graph.shape[0]
    values, y = first_vectors(graph, min(params.segments, n) - 1, generator)
    if params.partition == "kmeans":
        return by_kmeans(y, min(params.segments, n), generator, RESTARTS), float(values[-1])
    constant = np.full((1, n), graph.sum() ** -0.5)
    return by_qr(np.concatenate([constant, y])), float(values[-1])


def _diagnostics(graph: csr_array, labels: np.ndarray, last: float, params: Params) -> dict[str, Any]:
    from maskmill.cut._partition import group_scores, indicators, ncut_confidence, padded

    products, degree = (graph @ indicators(labels).T).T, graph.sum(1)
    return {
        "confidence": ncut_confidence(products, degree, labels),
        "scores": padded(group_scores(products, degree, labels), params.segments),
        "last": last,
        "groups": float(labels.max() + 1),
        "outcome": 0.0,
    }

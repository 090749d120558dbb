"""Deep Spectral Methods: one object by the Fiedler vector, or many segments by the first eigenvectors.

Melas-Kyriazi, Rupprecht, Laina, Vedaldi, "Deep spectral methods: a surprisingly strong baseline for unsupervised
semantic segmentation and localization", CVPR 2022. The graph is W = max(C, 0) / max(C) + colour_weight * W_knn with C
the cosines of the keys and W_knn the neighbours in colour and place (see maskmill.cut._weighted); the eigenvectors are
those of (D - W) y = lambda D y. Not in the paper: `partition: qr`, the scores, and the outcomes without structure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from maskmill.cut import Need, Traits
from maskmill.recipe.base import Model

if TYPE_CHECKING:
    from maskmill.cut._engine import Spectrum
    from maskmill.cut._weighted import WeightedAffinity

TRAITS = Traits(colour=True, outcomes={"cut": 0, "one token": 1, "no structure": 2, "no unique cut": 3})
BY_CHANCE = 0.999  # lambda_2 above: the best cut is as good as a random one
RESTARTS = 10  # of k-means


class Params(Model):
    """Symbols of the paper in words: K = vectors, lambda = colour_weight."""

    mode: Literal["kway", "fiedler"] = Field("kway", description="many segments, or one object")
    vectors: int = Field(5, ge=2, le=40, description="kway: eigenvectors, the constant one included")
    segments: int = Field(15, ge=2, le=254, description="kway: groups, the background included")
    adaptive: bool = Field(False, description="kway: as many groups as the largest gap of the eigenvalues says")
    partition: Literal["kmeans", "qr"] = Field("kmeans", description="kway: qr needs no seed, one group a vector")
    background: Literal["border", "none"] = Field("border", description="kway: group with most of the border is 0")
    component: Literal["all", "largest"] = Field(
        "all", description="fiedler: the whole positive side (segmentation), or its largest part (a box)"
    )
    colour_weight: float = Field(0.0, ge=0, description="weight of the colour neighbours; the paper's figures: 10")

    @model_validator(mode="after")
    def _qr(self) -> Params:
        if self.partition == "qr" and not self.adaptive and self.segments != self.vectors:
            raise ValueError("partition: qr gives one group a vector; set segments and vectors to the same number")
        return self


def needs(params: Params) -> tuple[Need, ...]:
    """The colours, where they weigh anything."""
    return ("colour",) if params.colour_weight > 0 else ()


def regions_per_image(params: Params, code_length: int) -> int:
    """One object, or a segment a group."""
    if params.mode == "fiedler":
        return 1
    return params.vectors if params.adaptive else params.segments


def cut(
    tokens: np.ndarray, params: Params, seed: int, image_id: str, colour: np.ndarray | None = None
) -> tuple[np.ndarray, dict[str, Any]]:
    """Segments (uint8 [h, w]) of tokens [h, w, d] and colours [h, w, 3] in 0..1.

    mode fiedler: the tokens with y_2 > 0, its sign such that at most half of the tokens are above; with component
    largest the largest 8-connected part of them.
    mode kway: groups of tokens in the coordinates y_2 ... y_K, numbered by their first token; not always connected.

    Diagnostics:
        confidence: 1 - Ncut / (groups - 1); scores float32 [segments]: the same of each segment; see _partition.
        lambda_2, lambda_last, lambda_next: of the first and last vector used, and of the next.
        vectors: used, the constant one included; fewer than asked for where the next is as good as the last.
        groups, steps, residual, outcome (see TRAITS: anything but 0 means segments all 0, confidence 0).

    Raises:
        NumericsError: a token or a colour is NaN or infinite.
    """
    import torch

    from maskmill.cut._engine import solve
    from maskmill.cut._tokens import flat_tokens
    from maskmill.cut._weighted import WeightedAffinity, add_sparse, neighbour_colours, positive_cosines
    from maskmill.numerics.sampling import rng

    h, w = tokens.shape[:2]
    matrix = positive_cosines(torch.from_numpy(flat_tokens(tokens, image_id)))
    if h * w < 3:
        return _no_structure(h, w, "one token", params, None)
    if colour is not None and params.colour_weight > 0:
        add_sparse(matrix, neighbour_colours(colour), params.colour_weight)
    affinity = WeightedAffinity.of(matrix)
    pairs = 1 if params.mode == "fiedler" else min(params.vectors - 1, h * w - 2)
    spectrum = solve(affinity, pairs, rng(seed, image_id, "lanczos"))
    if spectrum.values[0] > BY_CHANCE:
        return _no_structure(h, w, "no structure", params, spectrum)
    used = usable(spectrum.values)
    if not used:
        return _no_structure(h, w, "no unique cut", params, spectrum)
    y = spectrum.vectors[:used].double().numpy()  # [used, n]
    if params.mode == "fiedler":
        segments = fiedler_mask(y[0].reshape(h, w), params.component).astype(np.uint8)
        return segments, _diagnostics(affinity, spectrum, segments, segments.ravel().astype(np.int64), used, params)
    labels = group(y, spectrum.values[:used], affinity.degree.double().numpy(), params, rng(seed, image_id, "kmeans"))
    segments = without_background(labels.reshape(h, w), params.background == "border")
    return segments, _diagnostics(affinity, spectrum, segments, labels, used, params)


def usable(values: np.ndarray) -> int:
    """How many of the first eigenvectors are determined as a whole, by lambda_2 ... lambda_{k+2} [k + 1].

    The last ones are left out where their eigenvalue equals the next: which vectors of that eigenspace the solver
    returned says nothing about the image.
    """
    from maskmill.cut._engine import MULTIPLE

    used = len(values) - 1
    while used and values[used] - values[used - 1] <= MULTIPLE:
        used -= 1
    return used


def fiedler_mask(y: np.ndarray, component: Literal["all", "largest"]) -> np.ndarray:
    """Bool [h, w] of y [h, w]: the positive side, which is the smaller one, or its largest 8-connected part.

    Halves of the same size: y as it comes, its largest magnitude positive. Of equal parts the first, row by row.
    """
    from scipy import ndimage

    mask = y > 0
    if mask.mean() > 0.5:
        mask = ~mask
    if component == "all":
        return np.asarray(mask)
    parts, _ = ndimage.label(mask, structure=np.ones((3, 3)))
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return np.asarray(parts == sizes.argmax())


def group(
    y: np.ndarray, values: np.ndarray, degree: np.ndarray, params: Params, generator: np.random.Generator
) -> np.ndarray:
    """Groups 0, 1, ... [n], numbered by their first token, of y [k, n] with lambda_2 ... lambda_{k+1} [k]."""
    from maskmill.cut._partition import by_kmeans, by_qr, compact, eigengap_groups

    groups = eigengap_groups(np.concatenate([[0.0], values])) if params.adaptive else params.segments
    if params.partition == "qr":
        constant = np.full((1, y.shape[1]), degree.sum() ** -0.5)  # y_1, of the same length as the others
        return compact(by_qr(np.concatenate([constant, y])[:groups]))
    return compact(by_kmeans(y, groups, generator, RESTARTS))


def without_background(labels: np.ndarray, background: bool) -> np.ndarray:
    """Segments uint8 [h, w] of labels 0, 1, ... [h, w]: 1, 2, ... in the same order; the background's becomes 0."""
    from maskmill.cut._partition import background_of

    if not background:
        return (labels + 1).astype(np.uint8)
    ground = background_of(labels)
    return np.where(labels == ground, 0, labels + (labels < ground)).astype(np.uint8)


def _diagnostics(
    affinity: WeightedAffinity, spectrum: Spectrum, segments: np.ndarray, labels: np.ndarray, used: int, params: Params
) -> dict[str, Any]:
    import torch

    from maskmill.cut._partition import group_scores, indicators, ncut_confidence

    products = affinity.times(torch.from_numpy(indicators(labels))).numpy()
    degree = affinity.degree.double().numpy()
    quality, scores = group_scores(products, degree, labels), np.zeros(_most(params), np.float32)
    found, first = np.unique(segments, return_index=True)
    for segment, token in zip(found, first, strict=True):
        if segment:
            scores[segment - 1] = quality[labels[token]]
    return {
        "confidence": ncut_confidence(products, degree, labels), "scores": scores,
        "lambda_2": float(spectrum.values[0]), "lambda_last": float(spectrum.values[used - 1]),
        "lambda_next": float(spectrum.values[used]), "vectors": float(used + 1), "groups": float(len(products)),
        "steps": float(spectrum.steps), "residual": spectrum.residual, "outcome": 0.0,
    }  # fmt: skip


def _most(params: Params) -> int:
    """The largest number of segments that the parameters allow."""
    if params.mode == "fiedler":
        return 1
    groups = params.vectors if params.adaptive else params.segments
    return groups - 1 if params.background == "border" else groups


def _no_structure(
    h: int, w: int, outcome: str, params: Params, spectrum: Spectrum | None
) -> tuple[np.ndarray, dict[str, Any]]:
    values = {"lambda_2": 1.0, "lambda_last": 1.0, "lambda_next": 1.0, "vectors": 0.0, "groups": 0.0}
    if spectrum is not None:
        values |= {"lambda_2": float(spectrum.values[0]), "lambda_next": float(spectrum.values[-1])}
    solver = {"steps": float(spectrum.steps), "residual": spectrum.residual} if spectrum else {}
    values |= {"steps": 0.0, "residual": 0.0} | solver
    scores = np.zeros(_most(params), np.float32)
    return np.zeros((h, w), np.uint8), {
        "confidence": 0.0,
        "scores": scores,
        "outcome": float(TRAITS.outcomes[outcome]),
    } | values

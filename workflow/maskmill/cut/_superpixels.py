"""Connected parts of like features by the rule of Felzenszwalb and Huttenlocher (IJCV 2004), and what they explain."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

LEVELS = 255  # the paper's unit of colours
FLAT = 1e-6  # largest difference of features without structure


class Settings(Protocol):
    """The parameters of a cut that are read here."""

    @property
    def scale(self) -> float: ...
    @property
    def smallest(self) -> int: ...
    @property
    def segments(self) -> int: ...


def superpixels(features: np.ndarray, params: Settings) -> np.ndarray:
    """The part of every token [h * w] of features [h, w, d]: at most so many as are asked for."""
    from maskmill.cut._joins import absorbed, joined, neighbour_edges

    first, second, distance = neighbour_edges(features)
    order = np.argsort(distance, kind="stable")
    first, second = first[order], second[order]
    parts = joined(first, second, distance[order], features.shape[0] * features.shape[1], float(params.scale))
    return _few(lambda smallest: absorbed(first, second, parts, smallest), params)


def _few(absorb: Callable[[int], np.ndarray], params: Settings) -> np.ndarray:
    """Parts with the least number of tokens of a part, from `smallest` on in doublings, that leaves few enough."""
    smallest = params.smallest
    while len(np.unique(found := absorb(smallest))) > params.segments:
        smallest *= 2
    return found


def explained(features: np.ndarray, parts: np.ndarray) -> float:
    """Share of the variance of features [n, d] that the means of parts [n] explain, 0..1."""
    counts = np.bincount(parts)
    means = np.stack([np.bincount(parts, column) for column in features.T], 1) / counts[:, None]
    total = float(np.square(features - features.mean(0)).sum())
    return float(np.clip(1 - np.square(features - means[parts]).sum() / total, 0, 1))

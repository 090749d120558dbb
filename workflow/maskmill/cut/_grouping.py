"""Hierarchical grouping of neighbouring regions by colour, texture, size and fill (selective search)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Similarity = Literal["colour", "texture", "size", "fill"]
SIMILARITIES: tuple[Similarity, ...] = ("colour", "texture", "size", "fill")
COLOURS = 25  # bins a channel
TEXTURES = 10  # bins a channel and direction
DIRECTIONS = 8


@dataclass
class Regions:
    """What regions are compared by; a row a region, those that are there first.

    Attributes:
        sizes: tokens [m]. boxes: y0, x0, y1, x1 in tokens, ends exclusive, [m, 4].
        colour: histograms [m, 75] of sum one. texture: histograms [m, 240] of sum one.
        area: tokens of the photo.
    """

    sizes: np.ndarray
    boxes: np.ndarray
    colour: np.ndarray
    texture: np.ndarray
    area: int

    @classmethod
    def of(cls, parts: np.ndarray, colours: np.ndarray) -> Regions:
        """Regions parts [h, w] from 0 on, all there, of colours [h, w, 3] in 0..1."""
        count = int(parts.max()) + 1
        sizes = np.bincount(parts.ravel(), minlength=count).astype(np.float64)
        rows, columns = np.indices(parts.shape).reshape(2, -1)
        boxes = np.empty((count, 4), np.int64)
        boxes[:, :2], boxes[:, 2:] = max(parts.shape), 0
        for place, values in enumerate((rows, columns)):
            np.minimum.at(boxes[:, place], parts.ravel(), values)
            np.maximum.at(boxes[:, place + 2], parts.ravel(), values + 1)
        colour = _histograms(parts, colours, COLOURS)
        texture = _histograms(parts, gradients(colours), TEXTURES)
        return cls(sizes, boxes, colour, texture, parts.size)

    def similarity(self, i: int, others: np.ndarray, wanted: Sequence[Similarity]) -> np.ndarray:
        """Sum of the wanted similarities of region i with others [n], each in 0..1 (sections 3.2)."""
        both = self.sizes[i] + self.sizes[others]
        total = np.zeros(len(others))
        if "colour" in wanted:
            total += np.minimum(self.colour[i], self.colour[others]).sum(axis=1)
        if "texture" in wanted:
            total += np.minimum(self.texture[i], self.texture[others]).sum(axis=1)
        if "size" in wanted:
            total += 1 - both / self.area
        if "fill" in wanted:
            low = np.minimum(self.boxes[i, :2], self.boxes[others, :2])
            high = np.maximum(self.boxes[i, 2:], self.boxes[others, 2:])
            total += 1 - ((high - low).prod(axis=1) - both) / self.area
        return total

    def merge(self, i: int, j: int) -> None:
        """Region i becomes the union of both."""
        a, b = self.sizes[i], self.sizes[j]
        for histogram in (self.colour, self.texture):
            histogram[i] = (a * histogram[i] + b * histogram[j]) / (a + b)
        self.boxes[i, :2] = np.minimum(self.boxes[i, :2], self.boxes[j, :2])
        self.boxes[i, 2:] = np.maximum(self.boxes[i, 2:], self.boxes[j, 2:])
        self.sizes[i] = a + b


def gradients(colours: np.ndarray) -> np.ndarray:
    """Positive parts of Gaussian derivatives (deviation 1) in eight directions: [h, w, 3 * 8], each at most 1."""
    from scipy.ndimage import gaussian_filter

    down = gaussian_filter(colours, (1, 1, 0), order=(1, 0, 0))
    right = gaussian_filter(colours, (1, 1, 0), order=(0, 1, 0))
    angles = 2 * np.pi * np.arange(DIRECTIONS) / DIRECTIONS
    found = np.concatenate([np.clip(np.sin(a) * down + np.cos(a) * right, 0, None) for a in angles], axis=2)
    return np.asarray(found / np.maximum(found.max(axis=(0, 1)), 1e-12))


def _histograms(parts: np.ndarray, values: np.ndarray, bins: int) -> np.ndarray:
    """Histograms [m, d * bins] over all channels of values [h, w, d] in 0..1, of sum one a region."""
    count, depth = int(parts.max()) + 1, values.shape[2]
    cells = (values * bins).astype(np.int64).clip(0, bins - 1) + np.arange(depth) * bins
    flat = parts[..., None] * (depth * bins) + cells
    found = np.bincount(flat.ravel(), minlength=count * depth * bins).reshape(count, -1).astype(np.float64)
    return found / found.sum(axis=1, keepdims=True)


def neighbours(parts: np.ndarray) -> np.ndarray:
    """Which regions touch, bool [m, m]: two of their tokens are among each other's eight neighbours."""
    from maskmill.cut._joins import neighbour_edges

    first, second, _ = neighbour_edges(np.zeros((*parts.shape, 1)))
    found = np.zeros((int(parts.max()) + 1,) * 2, bool)
    a, b = parts.ravel()[first], parts.ravel()[second]
    found[a, b] = found[b, a] = True
    np.fill_diagonal(found, False)
    return found


def grouped(regions: Regions, touching: np.ndarray, wanted: Sequence[Similarity]) -> np.ndarray:
    """Parents [2 m - 1] of the nodes of a tree, 0 for the root: leaves 1..m, then unions in the order of their making.

    The most similar pair of neighbours is joined until one region is left; of equal pairs the one of the oldest
    regions. `regions` is used up.

    Args:
        touching: bool [m, m], a connected graph.
    """
    m = len(touching)
    parents = np.zeros(2 * m - 1, np.int64)
    node = np.arange(1, m + 1)  # of each place
    touching, scores = touching.copy(), np.full((m, m), -np.inf)
    for i in range(m):
        at = np.flatnonzero(touching[i])
        scores[i, at] = regions.similarity(i, at, wanted)
    for step in range(m - 1):
        i, j = divmod(int(_best(scores, node)), m)
        parents[node[[i, j]] - 1] = m + 1 + step
        regions.merge(i, j)
        node[i] = m + 1 + step
        touching[i] |= touching[j]
        touching[:, i] |= touching[:, j]
        touching[j] = touching[:, j] = False
        touching[i, i] = False
        scores[[i, j]] = scores[:, [i, j]] = -np.inf
        at = np.flatnonzero(touching[i])
        scores[i, at] = scores[at, i] = regions.similarity(i, at, wanted)
    return parents


def _best(scores: np.ndarray, node: np.ndarray) -> int:
    """Flat place of the best pair [m, m]; between equals that of the smallest numbers of nodes."""
    best = np.flatnonzero(scores.ravel() == scores.max())
    if len(best) == 1:
        return int(best[0])
    first, second = (node[part] for part in np.divmod(best, len(node)))
    return int(best[np.lexsort((second, first))[0]])

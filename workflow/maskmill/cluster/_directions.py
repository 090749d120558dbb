"""The codebook of prototypes: directions that no fit of this stage has counted the points of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from maskmill.cluster._nodes import blocks_of
from maskmill.store.codebook import Codebook, assign

if TYPE_CHECKING:
    from maskmill.numerics.points import Source


def codebook_of_directions(rows: np.ndarray, source: Source, **diagnostics: float) -> tuple[Codebook, int]:
    """The spherical codebook of directions [k, d], that of the most points first, and how many take no point.

    Args:
        diagnostics: stored beside the centroids, besides `unused`.
    """
    counts, inertia = np.zeros(len(rows), np.int64), 0.0
    blank = Codebook(rows, counts, 0.0, True)
    for block in blocks_of(source):
        labels, distances = assign(block, blank)
        counts += np.bincount(labels, minlength=len(rows))
        inertia += float(distances.sum(dtype=np.float64))
    order = np.lexsort([np.arange(len(rows)), -counts])
    unused = int((counts == 0).sum())
    stored = {name: np.array([float(value)]) for name, value in {"unused": unused, **diagnostics}.items()}
    return Codebook(rows[order], counts[order], inertia, True, stored), unused

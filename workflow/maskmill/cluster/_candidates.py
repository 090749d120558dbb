"""Which of several codebooks of the same vectors a recipe takes: the one that the vectors lie closest to.

All candidates are spherical codebooks of the same number of clusters, and all of them are solutions of one problem, to
find centres with the largest mean cosine to their vectors: it is the loss of the cluster probe that a head trains
beside itself (STEGO, section 3.2), and the objective of spherical k-means. So the better solution is known without
labels. It need not have the better score.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from maskmill.errors import StoreError
from maskmill.recipe.model import CANDIDATES
from maskmill.store import codebook as books
from maskmill.store.codebook import Codebook

CHOSEN = "candidate"  # diagnostic of a codebook: the place of its kind in CANDIDATES


def read_candidates(folder: str | Path, names: tuple[str, ...]) -> dict[str, Codebook]:
    """{name: codebook} of the candidates of a seed."""
    return {name: books.read(Path(folder) / f"{name}.safetensors") for name in names}


def choose(candidates: Mapping[str, Codebook]) -> Codebook:
    """The candidate with the smallest mean distance from its vectors, 1 - cosine; the first among equals.

    Its diagnostics say which one it is (`candidate`, a place in `CANDIDATES`), and the mean distance of each.

    Raises:
        StoreError: they are not of the same number of vectors and clusters, or not spherical.
    """
    shapes = {(len(book), int(book.counts.sum()), book.spherical) for book in candidates.values()}
    if len(shapes) != 1 or not next(iter(shapes))[2]:
        raise StoreError(f"candidates {', '.join(candidates)} are of different vectors; delete them and run again")
    means = {name: book.inertia / max(int(book.counts.sum()), 1) for name, book in candidates.items()}
    best = min(means, key=means.__getitem__)
    told = {f"{CHOSEN}_{name}": np.array(value) for name, value in means.items()}
    book = candidates[best]
    place = {CHOSEN: np.array(float(CANDIDATES.index(best)))}
    return replace(book, diagnostics=dict(book.diagnostics) | told | place)

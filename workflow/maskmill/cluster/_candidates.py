"""Which of several codebooks of the same vectors a recipe takes: the one that the vectors lie closest to.

All candidates are spherical codebooks of the same number of clusters, and all of them are solutions of one problem, to
find centres with the largest mean cosine to their vectors: it is the loss of the cluster probe that a head trains
beside itself (STEGO, section 3.2), and the objective of spherical k-means. So the better solution is known without
labels. It need not have the better score.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from maskmill.errors import NumericsError, StoreError
from maskmill.recipe.model import CANDIDATES
from maskmill.store import codebook as books
from maskmill.store.codebook import Codebook

CHOSEN = "candidate"  # diagnostic of a codebook: the place of its kind in CANDIDATES


def read_candidates(folder: str | Path, names: tuple[str, ...]) -> dict[str, Codebook]:
    """{name: codebook} of the candidates of a seed."""
    return {name: books.read(Path(folder) / f"{name}.safetensors") for name in names}


def fit_candidate(fit: Callable[[], Codebook]) -> Codebook:
    """What a method finds, or a codebook without centroids where it cannot make clusters of the vectors.

    A candidate is one of several: prototypes that have collapsed are no reason to stop a run that k-means can serve.
    """
    try:
        return fit()
    except NumericsError as error:
        print(f"cluster: no candidate: {error}", file=sys.stderr)
        return Codebook(np.zeros((0, 0), np.float32), np.zeros(0, np.int64), 0.0, True)


def choose(candidates: Mapping[str, Codebook]) -> Codebook:
    """The candidate with the smallest mean distance from its vectors, 1 - cosine; the first among equals.

    Its diagnostics say which one it is (`candidate`, a place in `CANDIDATES`), and the mean distance of each.

    Raises:
        NumericsError: none of them could be made.
        StoreError: they are not of the same number of vectors and clusters, or not spherical.
    """
    names = ", ".join(candidates)
    candidates = {name: book for name, book in candidates.items() if len(book)}
    if not candidates:
        raise NumericsError(
            f"cluster: neither of {names} makes two clusters of the codes: the logs of cluster_candidate say why; most "
            "likely the head has collapsed (docs/adapt.md)"
        )
    shapes = {(len(book), int(book.counts.sum()), book.spherical) for book in candidates.values()}
    if len(shapes) != 1 or not next(iter(shapes))[2]:
        raise StoreError(f"cluster/candidates: {names} are of different vectors; delete the files and run again")
    means = {name: book.inertia / max(int(book.counts.sum()), 1) for name, book in candidates.items()}
    best = min(means, key=means.__getitem__)
    told = {f"{CHOSEN}_{name}": np.array(value) for name, value in means.items()}
    book = candidates[best]
    place = {CHOSEN: np.array(float(CANDIDATES.index(best)))}
    return replace(book, diagnostics=dict(book.diagnostics) | told | place)

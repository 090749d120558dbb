"""Stuff: classes of what lies between the segments, by a second clustering, that of tokens (U2Seg).

U2Seg (Niu et al., Unsupervised Universal Image Segmentation, CVPR 2024) makes panoptic pseudo-labels of two sources:
instances with pseudo-classes, and a semantic segmentation of everything, where no instance lies. A class of stuff of
which instances cover more than 70 % in an image is taken for the instances themselves, and left out there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from maskmill.errors import StoreError
from maskmill.images.masks import ignore_value, to_size
from maskmill.numerics import kmeans
from maskmill.numerics.points import points_of
from maskmill.painting.tokens import paint_tokens
from maskmill.recipe.base import validate
from maskmill.recipe.sections import Refine, Stuff
from maskmill.store import codebook as books
from maskmill.store.provenance import Provenance
from maskmill.store.ragged import Ragged


def run_stuff(
    token_stores: Sequence[str | Path],
    params: Mapping[str, Any],
    seed: int,
    out: str | Path,
    threads: int = 1,
    device: str = "auto",
) -> None:
    """Cluster at most `max_fit_points` tokens of all shards by spherical k-means, and write the codebook.

    Args:
        token_stores: one feature store a shard; the result does not depend on how images are spread over them.
        params: `clusters` and `max_fit_points` of `paint.stuff`, and `kmeans`, the version of k-means.

    Raises:
        NumericsError: NaN or infinite values, or fewer distinct tokens than clusters.
    """
    import torch

    torch.set_num_threads(threads)
    own = {key: value for key, value in params.items() if key != "kmeans"}
    settings = validate(Stuff, own, "--params", "paint.stuff")
    stores = [Ragged(path) for path in token_stores]
    points = points_of(stores, settings.max_fit_points, seed)
    how = kmeans.Settings(clusters=settings.clusters, spherical=True)
    book, _ = kmeans.fit(points, how, seed, device, "paint.stuff.clusters")
    books.write(out, book, Provenance.of("paint", dict(params) | {"seed": seed}, [store.hash for store in stores]))


class Filler:
    """Fills the masks of one shard.

    Args:
        codebook: what `run_stuff` wrote. tokens: feature store of the shard that it was fitted on.
        things: classes of segments; stuff has the values behind them.

    Attributes:
        hashes: of codebook and tokens.

    Raises:
        StoreError: the codebook is of another number of classes.
    """

    def __init__(self, codebook: str | Path, tokens: str | Path, settings: Stuff, things: int, upsample: int) -> None:
        self._book, self._store = books.read(codebook), Ragged(tokens)
        self._covered, self._things, self._upsample = settings.covered, things, upsample
        if len(self._book) != settings.clusters:
            raise StoreError(
                f"{codebook}: {len(self._book)} classes of stuff, asked for are {settings.clusters}; delete it and run "
                "snakemake again"
            )
        self.hashes = [self._book.hash, self._store.hash]

    def fill(self, image_id: str, mask: np.ndarray) -> np.ndarray:
        """The mask [h, w] of an image with stuff where it is 0."""
        tokens, valid = self._store[image_id], self._store.valid(image_id)
        stuff = paint_tokens(tokens, self._book, self._upsample, Refine(), None, None, valid)
        return filled(mask, to_size(stuff, (mask.shape[0], mask.shape[1])), self._things, self._covered)


def filled(mask: np.ndarray, stuff: np.ndarray, things: int, covered: float) -> np.ndarray:
    """A mask with stuff between its segments.

    Args:
        mask: [h, w], 0 between segments. stuff: [h, w], class 1..s of every cell, whatever lies on it, or ignore.
        things: s classes of stuff become things + 1 .. things + s.
        covered: a class of which segments, known or not, have more than this share becomes ignore between them.
    """
    classes = int(stuff.max(initial=0)) + 1
    every = np.bincount(stuff.ravel(), minlength=classes)
    hidden = np.bincount(stuff[mask != 0], minlength=classes)
    ignore, values = ignore_value(mask.dtype), np.arange(classes)
    unknown = (hidden > covered * every) | (values == ignore_value(stuff.dtype))
    table = np.where(unknown, ignore, things + values)
    return np.where(mask == 0, table[stuff], mask).astype(mask.dtype)

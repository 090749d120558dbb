"""foreground: fine clusters of tokens against foreground masks -> a codebook of background and foreground. Files only.

Cluster-based foreground extraction (CBFE) of Leopart. A mask of one image is noisy, but a cluster that lies inside such
masks wherever it occurs is foreground, also where the mask misses it. There are three kinds of jobs: `maskmill
foreground fit` clusters tokens finely (spherical k-means), `count` counts a shard, `choose` adds the counts up and
draws the line.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from maskmill.backbones.attention import cls_queries
from maskmill.errors import NumericsError, StoreError, UserError
from maskmill.foreground import Method
from maskmill.foreground._votes import Votes, lay, otsu
from maskmill.numerics import kmeans
from maskmill.numerics.points import points_of
from maskmill.progress import track
from maskmill.recipe.model import Stage
from maskmill.recipe.sections import Foreground
from maskmill.store import codebook as books
from maskmill.store.artefact import read_tensors, write_tensors
from maskmill.store.provenance import Provenance
from maskmill.store.ragged import Ragged

OWN = ("precision", "images", "tokens")
BACKGROUND, FOREGROUND = 0, 1  # the clusters of the codebook that `choose` writes


def fine_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """The flat `cluster` section that fits the fine clusters of a `foreground` section."""
    settings = _stage(params).settings
    own = {"clusters": settings.clusters, "max_fit_points": settings.max_fit_points}
    return {"method": "kmeans", "spherical": True, **own}


def _stage(params: Mapping[str, Any]) -> Stage[Foreground]:
    """The stage of what one kind of job is given: the keys that it depends on, and `kmeans`, the version of k-means."""
    return Stage.of("foreground", {key: value for key, value in params.items() if key != "kmeans"})


def fit(
    vector_stores: Sequence[str | Path],
    params: Mapping[str, Any],
    seed: int,
    out: str | Path,
    threads: int,
    device: str = "auto",
) -> None:
    """Cluster at most `max_fit_points` tokens of all shards finely and write the codebook.

    It is the codebook that the stage cluster makes of the section `fine_params(params)`, and says so.

    Args:
        vector_stores: one Ragged of tokens a shard; the result does not depend on how images are spread over them.
        params: the section, or its keys `clusters` and `max_fit_points`.

    Raises:
        NumericsError: NaN or infinite values, or fewer distinct tokens than clusters.
    """
    import torch

    torch.set_num_threads(threads)
    settings, fine = _stage(params).settings, fine_params(params)
    stores = [Ragged(path) for path in vector_stores]
    points = points_of(stores, settings.max_fit_points, seed)
    own = kmeans.Settings(clusters=settings.clusters, spherical=True)
    book, _ = kmeans.fit(points, own, seed, device, "foreground.clusters")
    books.write(out, book, Provenance.of("cluster", fine | {"seed": seed}, [store.hash for store in stores]))


def count(
    vectors: str | Path, keys: str | Path, codebook: str | Path, params: Mapping[str, Any], out: str | Path
) -> None:
    """Count one shard: how precisely each fine cluster lies inside the foreground masks of its images.

    Args:
        vectors: Ragged of the (reduced) tokens [h, w, d] that are clustered.
        keys: feature store of the same images, facet key of a ViT; its grid may be another one.
        codebook: the fine clusters.
        params: the method and its parameters.
        out: safetensors of integers (see Votes), which add up to the same whatever the shards and their order. Images
            where the attention is even have no foreground mask and do not count, nor do tokens that show no data.

    Raises:
        StoreError: the keys have no query of a cls token, or lack an image.
    """
    import torch

    torch.set_num_threads(1)
    stage = _stage(params)
    method: Method = stage.module
    book, tokens, seen = books.read(codebook), Ragged(vectors), Ragged(keys)
    queries = cls_queries(seen, f"foreground.method {stage.method}") if method.TRAITS.reads_query else None
    votes = Votes(len(book))
    for image_id, values in track(tokens.images(), len(tokens), "foreground"):
        h, w, d = values.shape
        i, valid = seen.index(image_id), tokens.valid(image_id)
        try:
            mask = method.mask(seen[i].astype(np.float32), None if queries is None else queries[i], stage.params)
        except UserError as error:
            raise type(error)(f"{seen.path}: {image_id}: {error}") from None
        if mask is not None:
            labels, inside = books.assign(values.reshape(h * w, d), book)[0].reshape(h, w), lay(mask, (h, w))
            votes.add(labels, inside) if valid is None else votes.add(labels[valid], inside[valid])
    provenance = Provenance.of("foreground", dict(params), [tokens.hash, seen.hash, book.hash])
    write_tensors(out, {name: getattr(votes, name) for name in OWN}, provenance)


def choose(counts: Sequence[str | Path], codebook: str | Path, params: Mapping[str, Any], out: str | Path) -> None:
    """Add up the counts of all shards and write the fine centroids as a codebook of background (0) and foreground (1).

    Args:
        params: threshold, the mean precision from which on a cluster is foreground; None: Otsu's.
        out: codebook; its diagnostics are precision (NaN: in no image) and images of each centroid, and threshold.

    Raises:
        NumericsError: all or no clusters are foreground, or no threshold parts them.
    """
    book, hashes = books.read(codebook), []
    votes = Votes(len(book))
    for path in counts:
        tensors, made_by = read_tensors(path)
        if set(tensors) != set(OWN) or len(tensors["tokens"]) != len(book):
            raise StoreError(f"{path}: not the counts of {len(book)} fine clusters; delete it and run snakemake again")
        for name in OWN:
            getattr(votes, name).__iadd__(tensors[name])
        hashes.append(str(made_by.get("hash", "")))
    precision = votes.means()
    threshold = draw_line(precision, _stage(params).settings.threshold)
    inside = precision >= threshold  # False for NaN
    share = votes.tokens[inside].sum() / votes.tokens.sum()
    print(
        f"foreground: {int(inside.sum())} of {len(book)} fine clusters, {share:.0%} of the tokens "
        f"(precision {np.nanmin(precision):.2f} to {np.nanmax(precision):.2f}, threshold {threshold:.3f})",
        file=sys.stderr,
    )
    order = np.argsort(inside, kind="stable")
    sizes = np.array([book.counts[~inside].sum(), book.counts[inside].sum()])
    about = {"precision": precision[order], "images": votes.images[order], "threshold": np.array([threshold])}
    found = books.Codebook(
        book.centroids[order], sizes, book.inertia, book.spherical, about, group=inside[order].astype(np.int32)
    )
    books.write(out, found, Provenance.of("foreground", dict(params), [book.hash, *hashes]))


def draw_line(precision: np.ndarray, threshold: float | None) -> float:
    """The threshold on precisions [k] (NaN: unknown), Otsu's where none is given; some lie on either side of it."""
    known = precision[~np.isnan(precision)]
    if not len(known):
        raise NumericsError(
            "foreground: in no image does the cls token look anywhere in particular; check foreground.features"
        )
    line = otsu(known) if threshold is None else threshold
    said = f"the fine clusters lie in the foreground masks with precisions of {known.min():.3f} to {known.max():.3f}"
    if line is None:
        raise NumericsError(
            f"foreground: {said}, and nothing parts them; check foreground.features, or use more images"
        )
    if not (known >= line).any():
        raise NumericsError(f"foreground.threshold: {line}, but {said}: everything is background; lower it")
    if (known >= line).all():
        raise NumericsError(f"foreground.threshold: {line}, but {said}: everything is foreground; raise it")
    return line

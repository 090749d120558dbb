"""A taxonomy and the clusters that it was written for, or others, made into classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import scipy.sparse as sp

from maskmill.errors import ConfigError, NumericsError, nearest
from maskmill.images.masks import mask_dtype
from maskmill.store.classes import BACKGROUND, IGNORE, Classes, Leaf, merged
from maskmill.store.codebook import Codebook, assign, fingerprint
from maskmill.store.manifest import read_manifest
from maskmill.store.ragged import Ragged
from maskmill.taxonomy import Clustered
from maskmill.taxonomy import _members as members
from maskmill.taxonomy._carry import carry
from maskmill.taxonomy._document import Document, check_clusters
from maskmill.taxonomy._survey import maps, region_rows

FEW = 10_000  # names among which the nearest one is looked for
Place = tuple[int, int | None]  # cluster 1..k, part


def merge(document: Document, file: str, given: Clustered) -> Classes:
    """Classes that own the clusters as the document says.

    Args:
        file: where the document stands, for messages.

    Raises:
        ConfigError: a cluster or an image that there is not; a taxonomy of other clusters that does not say where they
            lay; a cluster with too few different members to split.
    """
    _check_images(document, file, given)
    _check_regions(document, file, given)
    codebook = fingerprint(given.book)
    notes: tuple[str, ...] = ()
    if document.codebook in (None, codebook):
        owners, split = document.leaves, document.split
        check_clusters(document, file, len(given.book))
    else:
        carried = carry(document, _overlap(document, file, given))
        notes = (f"{file} was written for clusters {document.codebook}, these are {codebook}", *carried.notes)
        owners, split = {(cluster, None): value for cluster, value in carried.owners.items()}, {}
        if not owners:
            raise ConfigError(
                f"{file}: written for clusters {document.codebook}, and of these ({codebook}) none could be placed "
                f"({'; '.join(carried.notes)}); name clusters in the report of this run"
            )
    found = owned(given.book, owners, len(document.classes), document.unnamed, split, _parts(split, given))
    return replace(found, corrections=document.fixes, notes=notes)


def owned(
    book: Codebook,
    owners: Mapping[Place, int],
    count: int,
    unnamed: str,
    split: Mapping[int, int] | None = None,
    parts: np.ndarray | None = None,
) -> Classes:
    """Classes that own clusters; noise is what it is to the clustering.

    Args:
        owners: {(cluster 1..k, part or None): value}. count: number of named classes.
        unnamed: what becomes of clusters without an owner: ignore, background, or keep, a class more for each.
        split: {cluster: number of its parts}. parts: [P, d], their centroids, in the order of the clusters.
    """
    leaves: list[Leaf] = []
    for cluster in range(1, len(book) + 1):
        for part in range(split[cluster]) if split and cluster in split else [None]:
            decided = owners.get((cluster, part))
            if decided is None and unnamed == "keep":
                count += 1
            others = {"ignore": IGNORE, "background": BACKGROUND, "keep": count}[unnamed]
            leaves.append(Leaf(cluster - 1, others if decided is None else decided, decided is None))
    if book.noise:
        leaves.append(Leaf(len(book), BACKGROUND if book.noise_is_background else IGNORE))
    mask_dtype(count)
    none = np.zeros((0, book.centroids.shape[1]), np.float32)
    return replace(merged(book, leaves, none if parts is None else parts, count), unnamed=unnamed)


def _parts(split: Mapping[int, int], given: Clustered) -> np.ndarray:
    """Centroids [P, d] of the parts of split clusters, in the order of the clusters: k-means of their members."""
    from maskmill.numerics.kmeans import Settings, fit
    from maskmill.numerics.points import points_of

    if not split:
        return np.zeros((0, given.book.centroids.shape[1]), np.float32)
    points = points_of([Ragged(shard.vectors) for shard in given.shards], given.limit, given.seed)
    blocks = [points] if isinstance(points, np.ndarray) else points()
    mine: dict[int, list[np.ndarray]] = {cluster: [] for cluster in split}
    for block in blocks:
        label = assign(block, given.book)[0]
        inside = assign(block, given.ground)[0] == 1 if given.ground is not None else np.ones(len(block), bool)
        for cluster, rows in mine.items():
            rows.append(block[(label == cluster - 1) & inside])
    found = []
    for cluster, count in sorted(split.items()):
        settings = Settings(clusters=count, spherical=given.book.spherical)
        members_of = np.concatenate(mine[cluster])
        try:
            found.append(fit(members_of, settings, given.seed, "cpu", f"split.{cluster}")[0].centroids)
        except NumericsError as error:
            raise ConfigError(f"taxonomy: split: {cluster}: {len(members_of)} members: {error}") from None
    return np.concatenate(found)


def _check_images(document: Document, file: str, given: Clustered) -> None:
    """Every image that is corrected is one of the run."""
    if document.corrections:
        ids = set(read_manifest(given.manifest).ids)
        for each in document.corrections:
            if each.image not in ids:
                near = nearest(each.image, sorted(ids)) if len(ids) <= FEW else ""
                raise ConfigError(f"{file}: corrections: the run has no image {each.image!r}{near}")


def _check_regions(document: Document, file: str, given: Clustered) -> None:
    """Every region that is corrected is one of its image."""
    wanted = [each for each in document.corrections if each.region is not None]
    if wanted and any(shard.table is None for shard in given.shards):
        raise ConfigError(
            f"{file}: corrections: {wanted[0].image}: region {wanted[0].region}: the recipe clusters tokens and has no "
            "regions; write was: instead"
        )
    images = {each.image for each in wanted}
    for shard in given.shards if wanted else ():
        rows = region_rows(shard.table) if shard.table is not None else {}
        for each in wanted:
            if each.image in rows and each.region not in rows[each.image]:
                raise ConfigError(
                    f"{file}: corrections: {each.image}: region {each.region}: the image has {list(rows[each.image])}"
                )
        images -= rows.keys()
    if images:
        raise ConfigError(f"{file}: corrections: {min(images)}: the image has no region")


def _overlap(document: Document, file: str, given: Clustered) -> sp.csr_array:
    """Cells [old values, k + 1] with an old and a new cluster."""
    if document.members is None:
        raise ConfigError(
            f"{file}: codebook: written for clusters {document.codebook}, but these are {fingerprint(given.book)}, and "
            "without the key members nothing says where the old ones lay; name clusters in the report of this run, or "
            "remove the key codebook if the numbers are right"
        )
    old = members.read(document.members, file)
    new: dict[str, np.ndarray] = {}
    for shard in given.shards:
        wanted = [image_id for image_id in Ragged(shard.vectors).ids if image_id in old]
        new |= {image_id: values for image_id, values, _ in maps(shard, given.book, wanted, given.ground)}
    if not new:
        raise ConfigError(
            f"{file}: members: written for other images, and for clusters {document.codebook}, while these are "
            f"{fingerprint(given.book)}; name clusters in the report of this run"
        )
    return members.overlap(old, new, len(given.book))


def clusters_of(classes: Classes, book: Codebook) -> dict[Place, tuple[int, bool]]:
    """The value of every cluster, or of its parts, and whether somebody has decided it.

    Where no cluster is owned as a whole, a cluster has the class of its first centroid.
    """
    from maskmill.painting.scoring import assign as classify

    if classes.kind != "merged":
        first = np.arange(len(book)) if book.group is None else np.searchsorted(book.group, np.arange(len(book)))
        found_there = enumerate(classify(book.centroids[first], classes))
        return {(i + 1, None): (int(value), value != IGNORE) for i, value in found_there}
    tensors = classes.tensors
    cluster, values = tensors["leaf_cluster"].tolist(), classes.columns[tensors["leaf_column"]].tolist()
    several = np.bincount(tensors["leaf_cluster"])
    found: dict[Place, tuple[int, bool]] = {}
    for i, value, undecided in zip(cluster, values, tensors["leaf_open"].tolist(), strict=True):
        if i < len(book):
            part = sum(1 for place in found if place[0] == i + 1) if several[i] > 1 else None
            found[i + 1, part] = value, not undecided
    return found

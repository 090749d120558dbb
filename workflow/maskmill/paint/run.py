"""paint: clusters -> pseudo-masks of round 0. File reading and writing of the stage.

Rules for region recipes (COMUS, section 3.3: only the regions closest to their cluster's centre are trusted):

* a cell outside every segment is background, 0;
* a cell of a kept region of cluster c is c + 1;
* a region that is not among the `keep_closest` share of its cluster, or that has no vector (below
  `regions.min_area`), becomes what `dropped` says: `ignore` (nothing is known there) or `background`;
* an image where the cut found no segment at all is ignore everywhere: nothing was proposed, which is not the same as
  an empty scene. So is an image all of whose segments are ignore: COMUS trains on the images of kept regions only, and
  what lies around a region that nobody trusts would be taught as background.

* a cell that shows no data is ignore, whatever else would be there; so it is in token recipes;
* with `stuff` a cell outside every segment belongs to a class of stuff (`maskmill.paint.stuff`), whose values follow
  those of the clusters. Images that are ignore everywhere stay so.

In token recipes every cell gets the cluster of the highest score. They have no background, unless the stage foreground
knows it: then a cell is 0 where the score of the background is the highest of both sides, and else of its best cluster.
Two steps, because among many clusters of nearly equal scores a single background would win too often in a refinement.
Where a clustering knows noise (label -1), a noisy region is one that is not kept, and a cell whose best score is that
of noise is ignore, or background where the clustering has found it to be that (`unlinked: background`).

With `refine` the mask is then fitted to the photo, on a grid of at least 8 cells a token side; a mask cell takes the
label that most of it got. Cells that are ignore neither vote nor change. Token recipes refine the interpolated scores
of the clusters that win somewhere in the image, twice the cosine as in STEGO.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from maskmill.errors import ConfigError, StoreError
from maskmill.images.interpolate import majority, one_hots, resize_labels, resize_maps
from maskmill.images.masks import ignore_value, mask_dtype
from maskmill.images.nodata import at_grid, ignored, nearest_valid
from maskmill.images.photos import ManifestPhotos
from maskmill.paint.stuff import Filler
from maskmill.painting.tokens import confidences, margins, paint_tokens
from maskmill.progress import track
from maskmill.recipe.model import Stage
from maskmill.recipe.sections import Paint, Refine
from maskmill.refine import refine, refine_step
from maskmill.store.artefact import read_table, read_tensors, write_tensors
from maskmill.store.classes import BACKGROUND_ROW, IGNORE, Classes, Labels
from maskmill.store.codebook import Codebook
from maskmill.store.provenance import Provenance
from maskmill.store.ragged import Ragged, RaggedWriter


def settings_of(params: Mapping[str, Any]) -> Paint:
    """The settings in a flat `paint` section, or in the part of it that a rule passes."""
    settings: Paint = Stage.of("paint", params).settings
    return settings


def run_limits(
    assignments: Sequence[str | Path], codebook: str | Path, params: Mapping[str, Any], out: str | Path
) -> None:
    """Write how far from its centre a kept region of each cluster may be, judged among the regions of all shards.

    Args:
        assignments: the Parquet tables (image, region, cluster, distance) of all shards.
        codebook: safetensors of the clusters or of the classes made of them, for their number.
        params: the `paint` section, or its `keep_closest` alone.
        out: safetensors with `limits` [k] float64, in the order of the clusters (see `distance_limits`).
    """
    from maskmill.store.classes import read_labels

    book, keep_closest = read_labels(codebook), settings_of(params).keep_closest
    limits = distance_limits(assignments, len(book), keep_closest)
    write_tensors(out, {"limits": limits}, Provenance.of("paint", {"keep_closest": keep_closest}, [book.hash]))


def run_regions(
    segments: str | Path,
    assignments: str | Path,
    limits: str | Path,
    codebook: str | Path,
    params: Mapping[str, Any],
    out: str | Path,
    manifest: str | Path | None = None,
) -> None:
    """Paint the segments of one shard with the clusters of their regions.

    Args:
        segments: Ragged "segments" of the shard; its file stem names the shard.
        assignments: the Parquet table (image, region, cluster, distance) of the same shard.
        limits: what `run_limits` wrote: how close a region is to its centre is judged among all regions of its
            cluster, whatever the shard.
        codebook: safetensors of the clusters or of the classes made of them, for their number.
        params: the flat `paint` section.
        out: Ragged "masks" to write, `upsample` cells a side for every token, whatever the grid of the segments.
        manifest: where the photos are; only needed to refine.

    Raises:
        StoreError: `assignments` is of another shard, or `limits` of another codebook.
    """
    run_segments(segments, assignments, limits, codebook, params, out, Beside(manifest))


@dataclass(frozen=True)
class Beside:
    """What only some settings ask for: the manifest, to refine; of stuff the codebook, and the tokens of the shard."""

    manifest: str | Path | None = None
    stuff: str | Path | None = None
    tokens: str | Path | None = None


def run_segments(
    segments: str | Path,
    assignments: str | Path,
    limits: str | Path,
    codebook: str | Path,
    params: Mapping[str, Any],
    out: str | Path,
    beside: Beside,
) -> None:
    """`run_regions`, with stuff between the segments where `params` ask for it.

    Raises:
        ConfigError: `stuff` without its codebook and tokens.
    """
    import torch

    torch.set_num_threads(1)
    settings = settings_of(params)
    shard = ShardLabels(segments, assignments, limits, codebook, settings)
    store, clusters, upsample = shard.store, shard.clusters, settings.upsample
    photos = ManifestPhotos.needed(settings.refine, beside.manifest, "paint", Path(segments).stem)
    filler = None
    if settings.stuff is not None:
        if beside.stuff is None or beside.tokens is None:
            raise ConfigError("paint.stuff: fills what segments leave; give --stuff and --tokens")
        filler = Filler(beside.stuff, beside.tokens, settings.stuff, shard.things, upsample)
    hashes = shard.hashes + (filler.hashes if filler is not None else [])
    with _writer(out, clusters, params, hashes, shard.facts) as writer:
        for i, image_id in track(list(enumerate(store.ids)), len(store), "paint"):
            table = shard.labels(image_id)
            tokens = [side // shard.cells for side in store.grid[i].tolist()]
            size = (tokens[0] * upsample, tokens[1] * upsample)
            valid = at_grid(store.valid(i), size)
            found = nearest_valid(store[i], store.valid(i))
            mask = ignored(paint_regions(found, table, clusters, size), valid)
            if photos:
                step = refine_step(upsample)
                photo = photos.on_grid(image_id, (size[0] * step, size[1] * step))
                mask = refine_mask(found, table, mask, photo, settings.refine)
            if filler is not None:
                mask = filler.fill(image_id, mask)
            writer.append(image_id, mask, valid=valid)


class ShardLabels:
    """The segments of one shard and what becomes of each; arguments and errors as in `run_regions`.

    Attributes:
        store: the segments. cells: theirs, a token side. clusters: k, with the classes of stuff. things: without them.
        hashes: of segments, codebook and limits. facts: what the stores say of stuff, where there is some.
    """

    def __init__(
        self,
        segments: str | Path,
        assignments: str | Path,
        limits: str | Path,
        codebook: str | Path,
        settings: Paint,
    ) -> None:
        from maskmill.store.classes import read_labels

        book = read_labels(codebook)
        self.things = len(book)
        self.clusters = self.things + (settings.stuff.clusters if settings.stuff is not None else 0)
        self.facts = {} if settings.stuff is None else {"things": self.things}
        self._limits, limits_hash = read_limits(limits, self.things)
        self.store = Ragged(segments, "segments")
        self._rows = _shard_rows(Path(segments), Path(assignments))
        self.cells = int(self.store.attrs.get("cells", 1))
        self.hashes = [self.store.hash, book.hash, limits_hash]
        ignore = ignore_value(mask_dtype(self.clusters))
        self._dropped = 0 if settings.dropped == "background" else ignore
        self._noise = 0 if book.noise_is_background else ignore if isinstance(book, Classes) else self._dropped

    def labels(self, image_id: str) -> np.ndarray:
        """`region_labels` of an image."""
        return region_labels(self._rows.get(image_id, []), self._limits, self.clusters, self._dropped, self._noise)


def run_tokens(
    vectors: str | Path,
    codebook: str | Path,
    params: Mapping[str, Any],
    out: str | Path,
    manifest: str | Path | None = None,
    foreground: str | Path | None = None,
) -> None:
    """Paint one shard whose tokens themselves were clustered: interpolated scores, the best cluster wins.

    Args:
        vectors: Ragged of the (reduced) token vectors [h, w, d] that the codebook was fitted on.
        codebook, params, out, manifest: as in `run_regions`; the masks have clusters from 1 and no background, unless
            a taxonomy calls some clusters that.
        foreground: codebook of background (0) and foreground (1) for the same vectors: with it they have one.
    """
    import torch

    from maskmill.store.classes import read_labels
    from maskmill.store.codebook import read

    torch.set_num_threads(1)
    book = read_labels(codebook)
    ground = read(foreground) if foreground is not None else None
    made_of = [book.hash] + ([ground.hash] if ground is not None else [])
    store = Ragged(vectors)
    settings = settings_of(params)
    photos = ManifestPhotos.needed(settings.refine, manifest, "paint", Path(vectors).stem)
    with _writer(out, len(book), params, [store.hash, *made_of]) as writer:
        for i, image_id in track(list(enumerate(store.ids)), len(store), "paint"):
            see = partial(photos.on_grid, image_id) if photos else None
            valid = store.valid(i)
            mask = paint_tokens(store[i], book, settings.upsample, settings.refine, see, ground, valid)
            valid = at_grid(valid, (mask.shape[0], mask.shape[1]))
            if settings.abstain:
                sure = _sure(store[i], book, (mask.shape[0], mask.shape[1]), settings)
                mask[(mask > 0) & (sure < settings.abstain)] = ignore_value(mask.dtype)
            writer.append(image_id, ignored(corrected(mask, image_id, book), valid), valid=valid)


def _sure(tokens: np.ndarray, labels: Labels, size: tuple[int, int], settings: Paint) -> np.ndarray:
    """What `abstain` is compared with, float32 [H, W] of tokens [h, w, d]."""
    if settings.abstain_by == "confidence" and isinstance(labels, Classes):
        return confidences(tokens, labels, size)
    return margins(tokens, labels, size)


def corrected(mask: np.ndarray, image_id: str, labels: Labels) -> np.ndarray:
    """The mask [H, W] of an image after the corrections that a taxonomy has of it, in the order of its file."""
    if isinstance(labels, Codebook):
        return mask
    unknown = ignore_value(mask.dtype)
    for each in labels.corrections_of(image_id):
        if each.region is None:
            value, was = (unknown if v == IGNORE else v for v in (each.value, each.was))
            where = np.ones(mask.shape, bool) if was is None else mask == was
            mask = np.where(where, np.array(value, mask.dtype), mask)
    return mask


def distance_limits(assignments: Sequence[str | Path], clusters: int, keep_closest: float) -> np.ndarray:
    """Largest kept distance of each cluster [k] float64 over all shards; -inf for an empty cluster.

    The ceil(keep_closest * n) closest of a cluster's n regions are kept; regions at exactly the limiting distance are
    kept together, so that the result does not depend on the order of images or shards.
    """
    columns = [read_table(path, ["cluster", "distance"]) for path in assignments]
    label = np.concatenate([np.asarray(table["cluster"]) for table in columns]) if columns else np.zeros(0, np.int32)
    distance = np.concatenate([np.asarray(table["distance"]) for table in columns]) if columns else np.zeros(0)
    limits = np.full(clusters, -np.inf)
    order = np.argsort(label, kind="stable")
    bounds = np.searchsorted(label[order], np.arange(clusters + 1))
    for c in range(clusters):
        mine = distance[order[bounds[c] : bounds[c + 1]]]
        if len(mine):
            kept = max(1, math.ceil(keep_closest * len(mine) - 1e-9))  # 0.7 * 10 is 7.000000000000001
            limits[c] = np.partition(mine, kept - 1)[kept - 1]
    return limits


def read_limits(path: str | Path, clusters: int) -> tuple[np.ndarray, str]:
    """Limits [k] of `run_limits`, and the hash of what made them; those of another number of clusters: StoreError."""
    tensors, made = read_tensors(path)
    found = tensors.get("limits")
    if found is None or found.shape != (clusters,):
        raise StoreError(f"{path}: not the limits of {clusters} clusters; delete it and run snakemake again")
    return found, str(made.get("hash", ""))


def region_labels(
    rows: Sequence[tuple[int, int, float]], limits: np.ndarray, clusters: int, dropped: int, noise: int | None = None
) -> np.ndarray:
    """Mask value of every segment id of an image [256]: 0 for no segment, cluster + 1 if kept, else `dropped`.

    A region that the clustering calls noise (-1) has the value `noise`, by default that of dropped ones; one that a
    taxonomy calls background (-2) has 0.
    """
    table = np.full(256, dropped, dtype=mask_dtype(clusters))
    table[0] = 0
    for region, cluster, distance in rows:
        if cluster >= 0 and distance <= limits[cluster]:
            table[region] = cluster + 1
        elif cluster == BACKGROUND_ROW:
            table[region] = 0
        elif cluster < 0 and noise is not None:
            table[region] = noise
    return table


def paint_regions(segments: np.ndarray, table: np.ndarray, clusters: int, size: tuple[int, int]) -> np.ndarray:
    """Mask (H, W) of segments [h, w] uint8; all ignore where no segment was found, or none that is known."""
    dtype = mask_dtype(clusters)
    unknown = ignore_value(dtype)
    if (table[segments[segments > 0]] == unknown).all():  # of no segment as well
        return np.full(size, unknown, dtype)
    return resize_labels(table[segments], size)


def refine_mask(
    segments: np.ndarray, table: np.ndarray, mask: np.ndarray, photo: np.ndarray, settings: Refine
) -> np.ndarray:
    """The painted mask [H, W] fitted to the photo [H * step, W * step, 3]; its ignore cells stay."""
    void = mask == ignore_value(mask.dtype)
    present, maps = one_hots(table[segments])
    known = present != ignore_value(mask.dtype)
    if void.all() or not known.any():
        return mask
    step = photo.shape[0] // mask.shape[0]
    fine_void = void.repeat(step, axis=0).repeat(step, axis=1)
    best = refine(resize_maps(maps[known], photo.shape[:2]), photo, settings, fine_void)
    return np.where(void, mask, present[known][majority(best, step)]).astype(mask.dtype)


def _shard_rows(segments: Path, assignments: Path) -> dict[str, list[tuple[int, int, float]]]:
    """(region, cluster, distance) of every image of the shard that `segments` holds."""
    if assignments.stem != segments.stem:
        raise StoreError(
            f"{assignments}: belongs to shard {assignments.stem!r}, but {segments} to {segments.stem!r}; give both of "
            "one shard"
        )
    table = read_table(assignments, ["image", "region", "cluster", "distance"])
    rows: dict[str, list[tuple[int, int, float]]] = {}
    columns = (table[name].to_pylist() for name in ("image", "region", "cluster", "distance"))
    for image, region, cluster, distance in zip(*columns, strict=True):
        rows.setdefault(image, []).append((region, cluster, distance))
    return rows


def _writer(
    out: str | Path,
    clusters: int,
    params: Mapping[str, Any],
    inputs: list[str],
    facts: Mapping[str, Any] | None = None,
) -> RaggedWriter:
    dtype = mask_dtype(clusters)
    attrs = {"clusters": clusters, "ignore": ignore_value(dtype), "round": 0} | dict(facts or {})
    provenance = Provenance.of("paint", dict(params), inputs)
    return RaggedWriter(out, "masks", dtype=dtype.name, attrs=attrs, provenance=provenance)

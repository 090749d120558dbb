"""Files of the regions stage: segments and features (or photos) of one shard -> region table and region vectors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from maskmill.errors import ConfigError, StoreError
from maskmill.images.nodata import at_grid
from maskmill.recipe.base import validate
from maskmill.recipe.feature_set import FeatureSet
from maskmill.recipe.model import Stage
from maskmill.recipe.sections import Regions
from maskmill.regions import TokenPooling
from maskmill.store.artefact import write_table
from maskmill.store.manifest import read_manifest
from maskmill.store.provenance import Provenance
from maskmill.store.ragged import Ragged, RaggedWriter

COLUMNS = ("image", "region", "area", "y0", "x0", "y1", "x1", "score")


class SegmentedImage(NamedTuple):
    """One image: id, its segments [h, w] that are large enough, their ids [r] int64, ascending, and the id of
    the image that it is cut from, if it is.
    """

    id: str
    segments: np.ndarray
    ids: np.ndarray
    parent: str | None = None


class VectorSource(NamedTuple):
    """Where the vectors come from: their depth, the hash of what they are read from, and [r, d] of every image."""

    depth: int
    hash: str
    vectors: Iterator[np.ndarray]


class Network(NamedTuple):
    """What pooling crops needs instead of stored features: manifest and weights files, and how to compute."""

    manifest: Path
    weights: Path
    batch_size: int = 8
    threads: int = 1
    device: str = "auto"


def run(
    segments: str | Path,
    features: str | Path | None,
    params: Mapping[str, Any],
    out_table: str | Path,
    out_vectors: str | Path,
    network: Network | None = None,
    manifest: str | Path | None = None,
) -> None:
    """Describe every segment of one shard: area, box, confidence, and one vector.

    Args:
        segments: Ragged "segments" of the shard, 0 = no segment, with the per-image field confidence.
        features: Ragged "features" of the same images, for a pooling that reads them; images are matched by id.
        params: the flat `regions` section of the recipe; for `pool: crop_cls` and `crop_mean` with the key
            `feature_set`, the keys of the feature set whose backbone sees the crops.
        out_table: Parquet, one row a region in the order of the shard's images, then region id: image, region,
            area (share of the image), box y0, x0, y1, x1 (0..1), score (the segment's where the cut has `scores`, else
            the confidence of the image's cut).
        out_vectors: Ragged "vectors" float32, grid (r, 1) an image; its rows are the rows of the table.
        network: for `pool: crop_cls` and `crop_mean`.
        manifest: sizes of the photos, for `min_pixels`.

    Raises:
        StoreError: an image of the segments has no features, or is not in the manifest. ConfigError: what the
            pooling reads is not given. InputError, WeightsError, DeviceError, NumericsError: as in the features stage.
    """
    from maskmill.progress import track

    stage = Stage.of("regions", {key: value for key, value in params.items() if key != "feature_set"})
    cut = Ragged(segments, "segments")
    images = list(_images(cut, stage.settings, manifest, Path(segments).stem))
    if stage.module.TRAITS.photos:
        source = _from_photos(images, stage, params.get("feature_set"), network, Path(segments).stem)
    else:
        source = _from_tokens(images, features, stage)
    provenance = Provenance.of("regions", params, [cut.hash, source.hash])
    rows: list[tuple[Any, ...]] = []
    with RaggedWriter(out_vectors, "vectors", depth=source.depth, dtype="float32", provenance=provenance) as writer:
        described = zip(images, source.vectors, _scores(cut), strict=True)
        for image, vectors, scores in track(described, len(images), "regions"):
            writer.append(image.id, vectors[:, None], parent=image.parent)
            rows += [(image.id, int(r), *area_and_box(image.segments == r), float(scores[r - 1])) for r in image.ids]
    write_table(out_table, _table(rows), provenance)


def _images(cut: Ragged, settings: Regions, manifest: str | Path | None, shard: str) -> Iterator[SegmentedImage]:
    photos = None
    if settings.min_pixels:
        if manifest is None:
            raise ConfigError("maskmill regions: min_pixels asks for the sizes of the photos; give --manifest")
        photos = read_manifest(manifest, shard)
    for i, (image_id, segments) in enumerate(cut.images()):
        valid = cut.valid(image_id)
        kept = keep_large(segments, settings.min_area, None if valid is None else int(valid.sum()))
        if photos is not None:
            row = photos.row(image_id)
            kept = keep_larger(kept, settings.min_pixels / (row.width * row.height))
        ids = np.unique(kept)
        yield SegmentedImage(image_id, kept, ids[ids != 0].astype(np.int64), cut.parent(i))


def _from_tokens(images: list[SegmentedImage], features: str | Path | None, stage: Stage[Regions]) -> VectorSource:
    """Vectors pooled from stored tokens."""
    method: TokenPooling = stage.module
    if features is None:
        raise ConfigError("maskmill regions: this pooling reads stored tokens; give --features")
    tokens = Ragged(features, "features")
    absent = [image.id for image in images if image.id not in tokens]
    if absent:
        raise StoreError(f"{features}: no features of {len(absent)} segmented images, first {absent[0]!r}; delete it")
    depth = tokens.depth or 1
    vectors = (
        pooled(method, tokens[image.id].astype(np.float32), image, stage.params, tokens.valid(image.id))
        if len(image.ids)
        else np.zeros((0, depth), np.float32)
        for image in images
    )
    return VectorSource(depth, tokens.hash, vectors)


def pooled(
    method: TokenPooling, tokens: np.ndarray, image: SegmentedImage, params: Any, valid: np.ndarray | None
) -> np.ndarray:
    """Vectors [r, d] of an image's segments over tokens [h, w, d], without the tokens that are not `valid`.

    Where the tokens are of another feature set than the cut, a segment may reach into tokens without data: the cells of
    its own grid that lie there are left out, unless nothing of it would be left. Then its tokens hold the vector of the
    nearest one with data.
    """
    segments = image.segments
    there = at_grid(valid, (segments.shape[0], segments.shape[1]))
    if there is not None:
        within = np.where(there, segments, 0)
        lost = np.setdiff1d(image.ids, np.unique(within))
        segments = np.where(np.isin(segments, lost), segments, within)
    return method.pool(tokens, segments, params)[0]


def _from_photos(
    images: list[SegmentedImage],
    stage: Stage[Regions],
    feature_set: Mapping[str, Any] | None,
    network: Network | None,
    shard: str,
) -> VectorSource:
    """Vectors of the segments' crops; all of the shard are in memory before the first is written."""
    if network is None or feature_set is None:
        raise ConfigError(
            f"maskmill regions: pool {stage.method} looks at the photos; give --manifest, --weights, "
            "and feature_set within --params"
        )
    import torch

    from maskmill.backbones.dense import load
    from maskmill.device import memory_advice, pick
    from maskmill.regions._crops import ImageCrops, describe

    torch.set_num_threads(network.threads)
    place = pick(network.device)
    manifest = read_manifest(network.manifest, shard)
    rows = [manifest.row(image.id) for image in images]
    jobs = [
        ImageCrops(row, image.segments, image.ids) for row, image in zip(rows, images, strict=True) if len(image.ids)
    ]
    with memory_advice("batch_size", network.batch_size, "lower regions.longest or regions.size"):
        backbone = load(network.weights, validate(FeatureSet, feature_set, "--params", "regions.feature_set"), place)
        found = describe(jobs, backbone, stage, network.batch_size, network.threads)
    nothing = np.zeros((0, backbone.depth), np.float32)
    return VectorSource(backbone.depth, backbone.digest, (found.get(image.id, nothing) for image in images))


def _scores(cut: Ragged) -> np.ndarray:
    """Score of segment r of image i at [i, r - 1]; the confidence of the image's cut where it scores no segments."""
    if "scores" in cut.per_image_names:
        return cut.per_image("scores")
    return np.broadcast_to(cut.per_image("confidence")[:, None], (len(cut), 255))


def keep_large(segments: np.ndarray, min_area: float, cells: int | None = None) -> np.ndarray:
    """Segments [H, W] with those below `min_area` set to 0: a share of the image, or of its `cells` that show data."""
    counts = np.bincount(segments.ravel(), minlength=256)
    small = counts < min_area * (segments.size if cells is None else cells) - 1e-9  # the boundary itself is kept
    return np.where(small[segments], 0, segments)


def keep_larger(segments: np.ndarray, share: float) -> np.ndarray:
    """Segments [H, W] with those that cover at most `share` of the image set to 0."""
    counts = np.bincount(segments.ravel(), minlength=256)
    small = counts <= share * segments.size + 1e-9  # the boundary itself is dropped
    return np.where(small[segments], 0, segments)


def area_and_box(mask: np.ndarray) -> tuple[float, float, float, float, float]:
    """Share of the image and tight box (y0, x0, y1, x1) in 0..1 of a non-empty mask [H, W]."""
    h, w = mask.shape
    ys, xs = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return float(mask.mean()), ys[0] / h, xs[0] / w, (ys[-1] + 1) / h, (xs[-1] + 1) / w


def _table(rows: list[tuple[Any, ...]]) -> Any:
    import pyarrow as pa

    kinds = [pa.string(), pa.int32(), *[pa.float32()] * 6]
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(COLUMNS)
    arrays = [pa.array(column, kind) for column, kind in zip(columns, kinds, strict=True)]
    return pa.table(dict(zip(COLUMNS, arrays, strict=True)))

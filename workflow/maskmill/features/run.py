"""features: images of one shard -> tokens and cls in Zarr."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from maskmill.errors import NumericsError
from maskmill.images.decode import resize, target_size
from maskmill.images.nodata import nearest_valid, shares, valid_cells
from maskmill.images.photos import read_ahead, read_filled, reader_count
from maskmill.progress import track
from maskmill.recipe.model import Stage
from maskmill.recipe.sections import FeatureSet
from maskmill.store.manifest import Row, read_shard
from maskmill.store.provenance import Provenance
from maskmill.store.ragged import RaggedWriter

if TYPE_CHECKING:
    from maskmill.backbones import Dense
    from maskmill.device import Compute

# Mean cosine of the tokens of an image above which a graph cut sees one blob. Eight photographs and five frames of the
# demo through the embedded ViT: keys less their bias 0.27..0.66, raw keys 0.86..0.93, nothing between.
SATURATED = 0.75


@dataclass(frozen=True)
class Batch:
    """Images of one network input size (H, W)."""

    rows: tuple[Row, ...]
    size: tuple[int, int]


class Features(NamedTuple):
    """What the backbone says of one image: tokens [h, w, d] and cls [d] float32, and the input size (H, W).

    cls_query [d] float32 is there for the keys of a ViT (see `Backbone.outputs`). valid [h, w] says which tokens show
    data (at least half of their pixels do); None where all do. The others have the vector of the nearest that does.
    """

    row: Row
    tokens: np.ndarray
    cls: np.ndarray
    size: tuple[int, int]
    cls_query: np.ndarray | None = None
    valid: np.ndarray | None = None


class Pictures(NamedTuple):
    """Photos of a batch as the backbone sees them.

    Attributes:
        images: uint8 [b, H, W, 3]. valid: of each the share of every pixel that shows data, float32 [H, W]; None where
            all of them do.
    """

    images: np.ndarray
    valid: tuple[np.ndarray | None, ...]


def plan_batches(rows: list[Row], feature_set: FeatureSet, multiple: int, batch_size: int) -> list[Batch]:
    """Batches of images with equal input size. Depends on the rows only, so a restart makes the same batches."""
    groups: dict[tuple[int, int], list[Row]] = {}
    for row in sorted(rows, key=lambda row: row.id):
        groups.setdefault(target_size(row.height, row.width, feature_set.size, multiple), []).append(row)
    return [
        Batch(tuple(group[i : i + batch_size]), size)
        for size, group in groups.items()
        for i in range(0, len(group), batch_size)
    ]


def read_batch(batch: Batch, fill: np.ndarray) -> Pictures:
    """Decoded and resized, in worker processes ahead of the device; raises like `read_photo`.

    Pixels without data get the colour `fill` [3] before anything is resized, so that no nodata value bleeds.
    """
    images, valid = np.empty((len(batch.rows), *batch.size, 3), np.uint8), []
    for image, row in zip(images, batch.rows, strict=True):
        shown = read_filled(row, fill)
        image[...] = resize(shown.pixels, batch.size)
        valid.append(None if shown.valid is None else shares(shown.valid, batch.size).astype(np.float32))
    return Pictures(images, tuple(valid))


def extract(backbone: Dense, batches: Iterator[tuple[Batch, Pictures]]) -> Iterator[Features]:
    """Features image by image. On a GPU the next batch is computed while this one is yielded and stored."""
    waiting: tuple[Batch, Pictures, _Copy] | None = None
    for batch, pictures in batches:
        copy = _Copy(backbone, pictures.images)
        if waiting is not None:
            yield from _split(*waiting)
        waiting = batch, pictures, copy
    if waiting is not None:
        yield from _split(*waiting)


class _Copy:
    """One batch on its way: uploaded, computed and copied back without waiting for the device."""

    def __init__(self, backbone: Dense, images: np.ndarray) -> None:
        import torch

        self.source, self.done = torch.from_numpy(images), None
        if backbone.device.type != "cuda":
            self.outputs = [tensor.cpu() for tensor in backbone.outputs(self.source) if tensor is not None]
            return
        self.source = self.source.pin_memory()  # kept until the copy is done
        computed = [tensor for tensor in backbone.outputs(self.source) if tensor is not None]
        self.outputs = [torch.empty(t.shape, dtype=t.dtype, pin_memory=True) for t in computed]
        for target, tensor in zip(self.outputs, computed, strict=True):
            target.copy_(tensor, non_blocking=True)
        self.done = torch.cuda.Event()
        self.done.record(torch.cuda.current_stream(backbone.device))

    def result(self) -> list[np.ndarray]:
        """Tokens [b, h, w, d], cls [b, d], and the cls query [b, d] where there is one."""
        if self.done is not None:
            self.done.synchronize()
        return [tensor.numpy() for tensor in self.outputs]


def _split(batch: Batch, pictures: Pictures, copy: _Copy) -> Iterator[Features]:
    for row, shown, tokens, cls, *query in zip(batch.rows, pictures.valid, *copy.result(), strict=True):
        valid = valid_cells(shown, (tokens.shape[0], tokens.shape[1]))
        seen = Features(row, nearest_valid(tokens, valid), cls, batch.size, *query)
        yield seen._replace(valid=valid)


def run(
    manifest: Path,
    shard: str,
    params: dict[str, Any],
    weights: Path,
    out: Path,
    compute: Compute,
) -> None:
    """Extract the features of one shard (see the store in docs/store.md and docs/backbones.md).

    The store is ordered by input size, then id: a shard of mixed sizes is never held in memory.

    Raises:
        InputError: an image no longer decodes, or has another size than in the manifest. NumericsError: NaN or
            infinite features. DeviceError: the batch does not fit the GPU. WeightsError, ConfigError: see `load`.
    """
    import torch

    from maskmill.backbones import mean_colour
    from maskmill.backbones.network import load
    from maskmill.device import memory_advice, pick

    torch.set_num_threads(compute.threads)
    place = pick(compute.device)
    feature_set: FeatureSet = Stage.of("features", params).settings
    rows = read_shard(manifest, shard)
    with memory_advice("batch_size", compute.batch_size):
        backbone = load(weights, feature_set, place)
        batches = plan_batches(rows, feature_set, backbone.multiple, compute.batch_size)
        workers = reader_count(len(batches), compute.threads, place)
        read = partial(read_batch, fill=mean_colour(backbone))
        made = Provenance.of("features", feature_set.model_dump(mode="json"), [shard, backbone.digest])
        images = track(extract(backbone, read_ahead(batches, read, workers)), len(rows), "features: image")
        _write(out, images, backbone, made)


def _write(out: Path, images: Iterator[Features], backbone: Dense, made: Provenance) -> None:
    chosen = backbone.set
    attrs: dict[str, Any] = {"backbone": chosen.backbone, "facet": chosen.facet, "stride": backbone.stride}
    if backbone.heads is not None:
        attrs["heads"] = backbone.heads
    with RaggedWriter(
        out, "features", depth=backbone.depth, dtype=chosen.dtype, attrs=attrs, provenance=made
    ) as writer:
        for image in images:
            shows = image.valid is None or bool(image.valid.any())
            if shows and "mean_cosine" not in writer.attrs:
                seen = image.tokens if image.valid is None else image.tokens[image.valid]
                writer.attrs["mean_cosine"] = warn_saturated(seen, chosen)
            vectors = {"cls": image.cls} | ({} if image.cls_query is None else {"cls_query": image.cls_query})
            writer.append(
                image.row.id,
                image.tokens,
                valid=image.valid,
                **{name: _stored(name, vector, image, chosen) for name, vector in vectors.items()},
                size=np.array(image.size, np.int32),
                original=np.array([image.row.height, image.row.width], np.int32),
            )


def _stored(name: str, vector: np.ndarray, image: Features, chosen: FeatureSet) -> np.ndarray:
    """A vector of the image in the type that it is stored in."""
    with np.errstate(over="ignore"):  # said as an error below
        stored = vector.astype(np.float16 if chosen.dtype == "float16" else np.float32)
    if not np.isfinite(stored).all() and np.isfinite(image.tokens).all():  # of bad tokens the store says more
        said = {"cls": "cls token", "cls_query": "query of the cls token"}[name]
        raise NumericsError(f"{image.row.id}: NaN or infinite {said} of {chosen.backbone}; set dtype: int8")
    return stored


def warn_saturated(tokens: np.ndarray, feature_set: FeatureSet) -> float | None:
    """Mean cosine of the token pairs of one image [..., d]; says so when it leaves no contrast for a graph cut.

    That is the trap of raw keys of DINOv2-like models, whose bias is longer than the keys themselves.
    """
    rows = tokens.reshape(-1, tokens.shape[-1]).astype(np.float64)
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    cosine = float(np.square(rows.mean(0)).sum())
    if not np.isfinite(cosine):
        return None  # the store says which image
    if cosine > SATURATED and feature_set.facet != "token":
        advice = "set key_bias: subtract" if feature_set.key_bias == "keep" else "use facet: key"
        print(
            f"features: warning: the {feature_set.facet}s of the first image have a mean cosine of {cosine:.2f}, so "
            f"graph cuts will see one blob; {advice}",
            file=sys.stderr,
        )
    return round(cosine, 4)

"""features: images of one shard -> tokens and cls in Zarr."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from maskmill.errors import ConfigError, NumericsError, StoreError
from maskmill.images.decode import resize, target_size
from maskmill.images.nodata import nearest_valid, shares, valid_cells
from maskmill.images.photos import PhotoFile, channels_of, read_ahead, read_filled, reader_count
from maskmill.progress import track
from maskmill.recipe.feature_set import FeatureSet
from maskmill.recipe.model import Stage
from maskmill.store.manifest import Row, read_shard
from maskmill.store.provenance import Provenance
from maskmill.store.ragged import RaggedWriter

if TYPE_CHECKING:
    import torch

    from maskmill.backbones import Dense
    from maskmill.device import Compute
    from maskmill.numerics.product import Encoder
    from maskmill.store.product import Codec

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

    cls_query [d] float32 is there for the keys of a ViT (see `Backbone.outputs`). With an encoder the tokens are codes
    [h, w, bytes] uint8, and `finite` says whether all that was encoded were numbers. valid [h, w] says which tokens
    show data (at least half of their pixels do); None where all do. The others have the vector of the nearest that
    does.
    """

    row: Row
    tokens: np.ndarray
    cls: np.ndarray
    size: tuple[int, int]
    cls_query: np.ndarray | None = None
    finite: bool = True
    valid: np.ndarray | None = None


class Pictures(NamedTuple):
    """Photos of a batch as the backbone sees them.

    Attributes:
        images: uint8 [b, H, W, 3], or of all N channels. valid: of each the share of every pixel that shows data,
            float32 [H, W]; None where all of them do.
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


def seen_channels(rows: Sequence[PhotoFile], feature_set: FeatureSet) -> int:
    """How many channels the backbone of a feature set sees of these pictures."""
    return channels_of(rows) if feature_set.channels == "all" else 3


def read_batch(batch: Batch, fill: np.ndarray) -> Pictures:
    """Decoded and resized, in worker processes ahead of the device; raises like `read_photo`.

    Pixels without data get the colour `fill` [3] before anything is resized, so that no nodata value bleeds. It has as
    many channels as the backbone sees.
    """
    images, valid = np.empty((len(batch.rows), *batch.size, len(fill)), np.uint8), []
    for image, row in zip(images, batch.rows, strict=True):
        shown = read_filled(row, fill)
        image[...] = resize(shown.pixels, batch.size)
        valid.append(None if shown.valid is None else shares(shown.valid, batch.size).astype(np.float32))
    return Pictures(images, tuple(valid))


def extract(
    backbone: Dense, batches: Iterator[tuple[Batch, Pictures]], encoder: Encoder | None = None
) -> Iterator[Features]:
    """Features image by image. On a GPU the next batch is computed while this one is yielded and stored.

    With an encoder, which is on the device of the backbone, the tokens become codes there.
    """
    waiting: tuple[Batch, Pictures, _Copy] | None = None
    for batch, pictures in batches:
        copy = _Copy(backbone, pictures.images, encoder)
        if waiting is not None:
            yield from _split(*waiting)
        waiting = batch, pictures, copy
    if waiting is not None:
        yield from _split(*waiting)


class _Copy:
    """One batch on its way: uploaded, computed and copied back without waiting for the device."""

    def __init__(self, backbone: Dense, images: np.ndarray, encoder: Encoder | None = None) -> None:
        import torch

        self.source, self.done = torch.from_numpy(images), None
        if backbone.device.type != "cuda":
            self.outputs = [tensor.cpu() for tensor in _computed(backbone, self.source, encoder)]
            return
        self.source = self.source.pin_memory()  # kept until the copy is done
        computed = _computed(backbone, self.source, encoder)
        self.outputs = [torch.empty(t.shape, dtype=t.dtype, pin_memory=True) for t in computed]
        for target, tensor in zip(self.outputs, computed, strict=True):
            target.copy_(tensor, non_blocking=True)
        self.done = torch.cuda.Event()
        self.done.record(torch.cuda.current_stream(backbone.device))

    def result(self) -> list[np.ndarray]:
        """Whether the tokens are finite [b], tokens [b, h, w, d] or their codes, cls [b, d], and the cls query [b, d]
        where there is one.
        """
        if self.done is not None:
            self.done.synchronize()
        return [tensor.numpy() for tensor in self.outputs]


def _computed(backbone: Dense, images: torch.Tensor, encoder: Encoder | None) -> list[torch.Tensor]:
    """What `_Copy.result` returns, on the device."""
    import torch

    tokens, *vectors = (tensor for tensor in backbone.outputs(images) if tensor is not None)
    if encoder is None:  # the store says which image is not finite
        return [torch.ones(len(tokens), dtype=torch.bool, device=tokens.device), tokens, *vectors]
    from maskmill.numerics.product import finite

    return [finite(tokens), encoder.codes(tokens), *vectors]


def _split(batch: Batch, pictures: Pictures, copy: _Copy) -> Iterator[Features]:
    for row, shown, finite, tokens, cls, *query in zip(batch.rows, pictures.valid, *copy.result(), strict=True):
        valid = valid_cells(shown, (tokens.shape[0], tokens.shape[1]))
        told = query[0] if query else None
        yield Features(row, nearest_valid(tokens, valid), cls, batch.size, told, bool(finite), valid)


def run(
    manifest: Path,
    shard: str,
    params: dict[str, Any],
    weights: Path,
    out: Path,
    compute: Compute,
    codec: Path | None = None,
) -> None:
    """Extract the features of one shard (see the store in docs/store.md and docs/backbones.md).

    The store is ordered by input size, then id: a shard of mixed sizes is never held in memory.

    Args:
        codec: of product-quantised tokens (`maskmill.features.fit`), for a feature set of `dtype: pq`.

    Raises:
        InputError: an image no longer decodes, or has another size than in the manifest. NumericsError: NaN or
            infinite features. DeviceError: the batch does not fit the GPU. WeightsError, ConfigError: see `load`.
            StoreError: the codec is damaged or that of another feature set.
    """
    import torch

    from maskmill.backbones import mean_colour
    from maskmill.backbones.dense import load
    from maskmill.device import memory_advice, pick

    torch.set_num_threads(compute.threads)
    place = pick(compute.device)
    feature_set: FeatureSet = Stage.of("features", params).settings
    rows = read_shard(manifest, shard)
    with memory_advice("batch_size", compute.batch_size):
        backbone = load(weights, feature_set, place, seen_channels(rows, feature_set))
        batches = plan_batches(rows, feature_set, backbone.multiple, compute.batch_size)
        workers = reader_count(len(batches), compute.threads, place)
        encoder = _encoder(codec, backbone)
        known = [shard, backbone.digest, *([] if encoder is None else [encoder.codec.digest])]
        made = Provenance.of("features", feature_set.model_dump(mode="json"), known)
        ahead = read_ahead(batches, partial(read_batch, fill=mean_colour(backbone)), workers)
        images = track(extract(backbone, ahead, encoder), len(rows), "features: image")
        _write(out, images, backbone, made, None if encoder is None else encoder.codec)


def _encoder(file: Path | None, backbone: Dense) -> Encoder | None:
    """What makes codes of the tokens of a feature set of `dtype: pq`."""
    if backbone.set.pq is None:
        return None
    if file is None:
        raise ConfigError("features: dtype: pq needs the codec that `maskmill features-pq` writes; give it as --codec")
    from maskmill.numerics.product import Encoder
    from maskmill.store.product import read

    codec, made = read(file)
    theirs, ours = made.get("params"), backbone.set.model_dump(mode="json")
    if theirs != ours or list(made.get("inputs", ()))[:1] != [backbone.digest] or codec.depth != backbone.depth:
        raise StoreError(
            f"{file}: not the codec of this feature set: {_differing(theirs, ours)}; delete it and run snakemake again"
        )
    return Encoder(codec, backbone.device)


def _differing(theirs: Any, ours: dict[str, Any]) -> str:
    """In which keys two feature sets differ, for a message."""
    if not isinstance(theirs, dict):
        return "it does not say what made it"
    keys = [key for key in ours if theirs.get(key) != ours[key]]
    said = ", ".join(f"{key}: {theirs.get(key)!r} and not {ours[key]!r}" for key in keys)
    return f"it was fitted with {said}" if said else "it was fitted with other weights of the backbone"


def _write(
    out: Path, images: Iterator[Features], backbone: Dense, made: Provenance, codec: Codec | None = None
) -> None:
    chosen = backbone.set
    attrs: dict[str, Any] = {"backbone": chosen.backbone, "facet": chosen.facet, "stride": backbone.stride}
    if backbone.heads is not None:
        attrs["heads"] = backbone.heads
    if chosen.channels == "all":
        attrs["channels"] = backbone.mean.shape[1]
    with RaggedWriter(
        out, "features", depth=backbone.depth, dtype=codec or chosen.dtype, attrs=attrs, provenance=made
    ) as writer:
        for image in images:
            if not image.finite:
                raise NumericsError(f"{image.row.id}: NaN or infinite tokens of {chosen.backbone}; check the photo")
            shows = image.valid is None or bool(image.valid.any())
            if shows and "mean_cosine" not in writer.attrs:
                seen = image.tokens if image.valid is None else image.tokens[image.valid]
                seen = seen if codec is None else codec.decode(seen.reshape(-1, codec.bytes))[None]
                writer.attrs["mean_cosine"] = warn_saturated(seen, chosen)
            vectors = {"cls": image.cls} | ({} if image.cls_query is None else {"cls_query": image.cls_query})
            writer.append(
                image.row.id,
                image.tokens,
                valid=image.valid,
                parent=image.row.parent,
                **{name: _stored(name, vector, image, chosen) for name, vector in vectors.items()},
                size=np.array(image.size, np.int32),
                original=np.array([image.row.height, image.row.width], np.int32),
            )


def _stored(name: str, vector: np.ndarray, image: Features, chosen: FeatureSet) -> np.ndarray:
    """A vector of the image in the type that it is stored in."""
    with np.errstate(over="ignore"):  # said as an error below
        stored = vector.astype(np.float32 if chosen.dtype == "int8" else np.float16)
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

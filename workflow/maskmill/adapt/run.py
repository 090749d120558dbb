"""Files of the adapt stage: learn a head from the tokens or photos of all shards, then make codes shard by shard."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from maskmill.adapt import Method, Traits, _neighbours
from maskmill.adapt._collapse import examined
from maskmill.adapt._data import CROPS, Crops, Images, TokenImages
from maskmill.adapt._training import HeadTraining
from maskmill.adapt.infer import FORMAT, Head
from maskmill.device import pick
from maskmill.errors import NumericsError, StoreError
from maskmill.progress import track
from maskmill.recipe.feature_set import FeatureSet
from maskmill.recipe.model import Stage
from maskmill.store.artefact import plain, write_json, write_tensors
from maskmill.store.hashing import json_hash
from maskmill.store.manifest import read_shard
from maskmill.store.provenance import Provenance
from maskmill.store.ragged import Ragged, RaggedWriter
from maskmill.training.checkpoint import Keeper
from maskmill.training.resources import Resources

if TYPE_CHECKING:
    import torch

BATCH = 16  # images whose codes a CUDA device computes at once


@dataclass(frozen=True)
class PhotoSource:
    """Photos in place of stored tokens, for a head that trains its backbone, or learns from photos beside it.

    Attributes:
        manifest: its file, of all shards. weights: file of the backbone's weights. feature_set: the level of the
            backbone that the head sees, and the size of the photos.
    """

    manifest: str | Path
    weights: str | Path
    feature_set: FeatureSet


@dataclass(frozen=True)
class TokenSource:
    """Stored tokens, for a head that sees more of an image while it learns (`Traits.beside`).

    Attributes:
        stores: one feature store a shard. manifest: of all shards.
    """

    stores: Sequence[str | Path]
    manifest: str | Path


@dataclass(frozen=True)
class HeadFiles:
    """What `fit` writes.

    Attributes:
        head: safetensors: the head, and metadata that suffices to use it.
        monitor: JSON of the loss of every step and of what the method watches.
        timing: JSON of seconds, images a second and the share of time spent waiting for data, apart because it differs
            between runs.
    """

    head: str | Path
    monitor: str | Path | None = None
    timing: str | Path | None = None


def find_neighbours(stores: Sequence[str | Path], crops: Crops, k: int, out: str | Path, threads: int = 1) -> None:
    """Write the table of the k images (or crops) most like each one, for methods that ask for it.

    Args:
        stores: feature stores of all shards; the table does not depend on how images are spread over them.
    """
    _neighbours.run(stores, crops, k, out, threads)


def fit(
    source: Sequence[str | Path] | TokenSource | PhotoSource,
    section: Mapping[str, Any],
    out: HeadFiles,
    *,
    seed: int,
    clusters: int,
    neighbours: str | Path | None = None,
    resources: Resources | None = None,
) -> None:
    """Train a head on the stored tokens of all shards, or on photos, with or beside their backbone.

    Args:
        source: one feature store a shard; the result does not depend on how images are spread over them. With a
            manifest where the method sees more than tokens. Or photos.
        section: the flat `adapt` section.
        clusters: k of the recipe, the number of prototypes that a method with prototypes learns.
        neighbours: the table of `find_neighbours`, for methods that ask for it.
        resources: its `checkpoint_steps` and `cache_mib` stand in place of those of the section.

    Raises:
        NumericsError: too few images, a loss that is not finite, or a head that has collapsed.
        StoppedError: SIGTERM or SIGUSR1 came; the checkpoint is written, and the same call goes on from it.
    """
    import torch

    torch.set_num_threads(1)  # parallel work is split by hand, so that no sum depends on the number of threads
    stage, resources = Stage.of("adapt", section), resources or Resources()
    method: Method = stage.module
    device = pick(resources.device)
    cache = stage.settings.cache_mib if resources.cache_mib is None else resources.cache_mib
    images = _opened(source, cache, device, resources.threads, stage)
    _check_count(len(images), method, stage.params)
    table = _neighbours.read(neighbours, images.ids) if neighbours is not None else None
    spec = {
        "format": FORMAT, "adapt": dict(section), "seed": seed, "clusters": clusters, "depth": images.depth,
        "features": images.made_by,
    }  # fmt: skip
    if images.encoder is not None:
        spec["encoder"] = images.encoder.spec
    made = Provenance.of("adapt", spec, [*images.hashes, *([table.hash] if table is not None else [])])
    key = json_hash([made.hash, device.type, torch.__version__])
    every = stage.settings.checkpoint_steps if resources.checkpoint_steps is None else resources.checkpoint_steps
    keeper = Keeper.beside(out.head, key, every, "adapt")
    training = HeadTraining(seed, device, clusters, resources.threads, keeper, table)
    tensors, diagnostics = method.fit(images, stage.params, training)
    timing = diagnostics.pop("timing")
    diagnostics |= examined(Head(tensors, spec, device), images, seed)
    if out.timing is not None:
        write_json(out.timing, timing | {"device": device.type, "threads": resources.threads}, made)
    if out.monitor is not None:
        write_json(out.monitor, plain(diagnostics), made)
    write_tensors(out.head, tensors, made)
    keeper.clear()


def _opened(
    source: Sequence[str | Path] | TokenSource | PhotoSource, cache_mib: int, device: torch.device, threads: int,
    stage: Stage[Any],
) -> Images:  # fmt: skip
    """The images of a source as the method sees them, of which `cache_mib` are held in memory."""
    traits: Traits = stage.module.TRAITS
    if isinstance(source, PhotoSource):
        from maskmill.adapt._photos import FrozenPhotos, PhotoImages

        given = source.manifest, source.weights, source.feature_set, cache_mib, device, threads
        return FrozenPhotos(*given, traits.facets) if traits.photos else PhotoImages(*given)
    if isinstance(source, TokenSource):
        from maskmill.adapt._beside import TokensAndMore

        return TokensAndMore(source.stores, source.manifest, traits.beside, cache_mib, f"adapt.method {stage.method}")
    return TokenImages(source, cache_mib)


def _check_count(images: int, method: Method, params: Any) -> None:
    """There are at least as many items to learn from as a step takes; else a NumericsError."""
    items = images * CROPS[params.crops if method.TRAITS.crops else "none"]
    if items < params.batch_size:
        raise NumericsError(
            f"adapt.batch_size: {params.batch_size}, but there are {items} images (or crops) to learn from; set it to "
            f"{items} or less, or use more images"
        )


def apply(head: str | Path, features: str | Path, out: str | Path, threads: int = 1, device: str = "auto") -> None:
    """Codes of one shard, a Ragged "features" store, from its tokens.

    Raises:
        StoreError: the tokens are of another feature set than the head was trained on, or the head sees photos.
    """
    model, store = Head.load(head, device), Ragged(features)
    if model.sees_photos:
        raise StoreError(f"{head}: was trained together with its backbone and sees photos; give --manifest and --shard")
    if store.ids and dict(store.provenance.get("params", {})) != model.spec["features"]:
        raise StoreError(f"{features}: not of the feature set that {head} was trained on; give the same one, or train "
                         "the head again")  # fmt: skip
    made = Provenance.of("adapt", {"head": model.hash}, [store.hash])
    images = {image_id: store.parent(i) for i, image_id in enumerate(store.ids)}
    _write(out, model, images, lambda image_id: np.asarray(store[image_id]), made, threads, store.valid)


def apply_to_photos(
    head: str | Path, manifest: str | Path, shard: str, out: str | Path, threads: int = 1, device: str = "auto"
) -> None:
    """Codes of one shard, a Ragged "features" store, from its photos, by a head that was trained with its backbone.

    Raises:
        StoreError: the head sees stored tokens. InputError: a photo has changed.
    """
    from maskmill.images.photos import read_filled

    model = Head.load(head, device)
    if not model.sees_photos:
        raise StoreError(f"{head}: sees stored tokens; give --features")
    rows = {row.id: row for row in read_shard(manifest, shard)}
    made = Provenance.of("adapt", {"head": model.hash}, [shard])
    workers = threads if model.concurrent else 1
    shown: dict[str, np.ndarray] = {}  # of the photos that are being computed, where some pixel shows no data

    def read(image_id: str) -> np.ndarray:
        photo = read_filled(rows[image_id])
        if photo.valid is not None:
            shown[image_id] = photo.valid
        return model.resized(photo.pixels)

    images = {row.id: row.parent for row in rows.values()}
    _write(out, model, images, read, made, workers, lambda image_id: shown.pop(image_id, None))


def _write(
    out: str | Path, model: Head, images: Mapping[str, str | None], read: Callable[[str], np.ndarray], made: Provenance,
    workers: int, shown: Callable[[str], np.ndarray | None],
) -> None:  # fmt: skip
    """The codes of images by id, computed several at once.

    Args:
        images: id -> that of the image that it is cut from, or None.
        shown: of an image that was read, bool [h, w] on any grid: where it shows data; None where it all does.
    """
    import torch

    from maskmill.images.nodata import nearest_valid, valid_cells
    from maskmill.numerics.blocks import ordered
    from maskmill.training.ahead import ahead

    torch.set_num_threads(1)  # each image on one thread, several images at once
    with RaggedWriter(out, "features", depth=model.code_length, provenance=made) as writer:
        if model.device.type == "cuda":
            found = in_batches(model, ahead(read, list(images), BATCH))
        else:
            found = ordered(lambda image_id: model.codes(read(image_id)), images, workers)
        for (image_id, parent), codes in track(zip(images.items(), found, strict=True), len(images), "adapt"):
            valid = valid_cells(shown(image_id), (codes.shape[0], codes.shape[1]))
            writer.append(image_id, nearest_valid(codes, valid), valid=valid, parent=parent)


def in_batches(model: Head, views: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Codes of images in their order; up to BATCH that follow each other and have one shape are computed together."""
    held: list[np.ndarray] = []
    for view in views:
        if held and (len(held) == BATCH or view.shape != held[0].shape):
            yield from model.several(held)
            held = []
        held.append(view)
    if held:
        yield from model.several(held)

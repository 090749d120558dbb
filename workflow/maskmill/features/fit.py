"""features, dtype pq: tokens of a sample of all images -> the codec that the jobs of the shards encode with."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from maskmill.errors import ConfigError, NumericsError
from maskmill.images.photos import read_ahead, reader_count
from maskmill.progress import track
from maskmill.recipe.feature_set import FeatureSet, ProductCode
from maskmill.recipe.model import Stage
from maskmill.store.manifest import Row, contents
from maskmill.store.provenance import Provenance

if TYPE_CHECKING:
    from maskmill.backbones import Dense
    from maskmill.device import Compute


def fit(manifest: Path, params: dict[str, Any], weights: Path, out: Path, compute: Compute) -> None:
    """Fit the codec of a feature set of `dtype: pq` (`maskmill.numerics.product`).

    The backbone runs on a sample of the images of the manifest, whatever their shards: those whose hashes of (seed, id)
    are the smallest. They go through it one by one and on one thread, so that the codec depends on the seed, the
    configuration and the images alone.

    Raises:
        ConfigError: the bytes do not divide the tokens, or the feature set asks for no codes. InputError, WeightsError,
            DeviceError: as in the jobs of the shards. NumericsError: NaN or infinite tokens.
    """
    from maskmill.backbones.dense import load
    from maskmill.device import pick
    from maskmill.features.run import seen_channels
    from maskmill.images.coded import images_of
    from maskmill.numerics import product
    from maskmill.store.product import write

    place = pick(compute.device)
    chosen: FeatureSet = Stage.of("features", params).settings
    asked = chosen.pq
    if asked is None:
        raise ConfigError(f"features: dtype: {chosen.dtype} has no codec; set dtype: pq")
    rows = images_of(manifest, asked)
    backbone = load(weights, chosen, place, seen_channels(rows, chosen))
    try:
        chosen.check_depth(backbone.depth)
    except ValueError as error:
        raise ConfigError(f"features.<name>.{error}") from None
    tokens = _sample(backbone, rows, asked, compute.threads)
    codec, facts = product.fit(tokens, asked.bytes, asked.rotate, asked.seed)
    made = Provenance.of("features", chosen.model_dump(mode="json"), [backbone.digest, contents(rows)])
    write(out, codec, {name: np.array(value) for name, value in facts.items()}, made)


def _sample(backbone: Dense, rows: list[Row], asked: ProductCode, threads: int) -> np.ndarray:
    """Tokens [n, d] float32 of the images, image after image, about as many of each; no more than asked for."""
    import torch

    from maskmill.backbones import mean_colour
    from maskmill.features.run import extract, plan_batches, read_batch
    from maskmill.numerics.sampling import drawn

    torch.set_num_threads(threads)  # that of the fit
    parts: list[np.ndarray] = []
    quota = max(1, asked.points // max(1, len(rows)))
    batches = plan_batches(rows, backbone.set, backbone.multiple, 1)
    read = partial(read_batch, fill=mean_colour(backbone))
    found = extract(backbone, read_ahead(batches, read, reader_count(len(batches), threads, backbone.device)))
    for image in track(_on_one_thread(found), len(rows), "features: image of the sample"):
        if not np.isfinite(image.tokens).all():
            raise NumericsError(f"{image.row.id}: NaN or infinite tokens of {backbone.set.backbone}; check the photo")
        valid = ... if image.valid is None else image.valid
        flat = image.tokens[valid].reshape(-1, image.tokens.shape[-1])
        parts.append(flat[drawn(len(flat), quota, asked.seed, image.row.id)])
    return np.concatenate(parts)[: asked.points] if parts else np.zeros((0, backbone.depth), np.float32)


def _on_one_thread(items: Iterator[Any]) -> Iterator[Any]:
    """The items, each made while torch has one thread."""
    from maskmill.numerics.blocks import one_thread

    with one_thread():
        yield from items

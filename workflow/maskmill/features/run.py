"""features: images of one shard -> tokens and cls in Zarr."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from maskmill.artefact import Provenance
from maskmill.config import FeatureSet
from maskmill.errors import InputError
from maskmill.images import decode, resize, target_size
from maskmill.manifest import Row, read_manifest
from maskmill.progress import track
from maskmill.store import RaggedWriter

if TYPE_CHECKING:
    import torch

    from maskmill.backbones import Backbone

SATURATED = 0.5  # mean cosine of raw keys above which the key bias drowns everything


@dataclass(frozen=True)
class Batch:
    """Images of one network input size (H, W)."""

    rows: tuple[Row, ...]
    size: tuple[int, int]


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


class BatchReader:
    """A map-style data set of whole batches: decode and resize, in worker processes ahead of the device."""

    def __init__(self, batches: list[Batch]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, i: int) -> tuple[int, torch.Tensor | None, str]:
        """(batch number, uint8 [b, H, W, 3], "") or (batch number, None, what is wrong)."""
        import torch

        batch = self.batches[i]
        images = np.empty((len(batch.rows), *batch.size, 3), np.uint8)
        for image, row in zip(images, batch.rows, strict=True):
            try:
                image[...] = resize(decode(row.path), batch.size)
            except (InputError, OSError) as error:
                return i, None, f"{row.path}: {error}"
        return i, torch.from_numpy(images), ""


def read_ahead(batches: list[Batch], workers: int, pin: bool) -> Iterator[tuple[Batch, torch.Tensor]]:
    """Decoded batches in order; each worker keeps two ahead, so memory is bounded by the batch size."""
    from torch.utils.data import DataLoader

    loader: Any = DataLoader(
        BatchReader(batches),  # type: ignore[arg-type]
        batch_size=None,
        num_workers=workers,
        prefetch_factor=2 if workers else None,
        pin_memory=pin,
    )
    for i, images, problem in loader:
        if images is None:
            raise InputError(f"{problem}; it changed since the inputs were checked: mend it and run snakemake again")
        yield batches[i], images


def run(
    manifest: Path,
    shard: str,
    params: dict[str, Any],
    weights: Path,
    out: Path,
    batch_size: int,
    threads: int,
    device: str = "auto",
) -> None:
    """Extract the features of one shard (see the store in docs/store.md).

    Raises:
        InputError: an image no longer decodes. DeviceError: the batch does not fit the GPU. WeightsError, ConfigError.
    """
    import torch

    from maskmill.backbones import load
    from maskmill.device import memory_advice, pick

    torch.set_num_threads(threads)
    place = pick(device)
    feature_set = FeatureSet.model_validate(params)
    backbone = load(weights, feature_set, place)
    batches = plan_batches(read_manifest(manifest).of(shard), feature_set, backbone.multiple, batch_size)
    workers = min(len(batches), threads if place.type == "cuda" else 1) if threads > 1 else 0
    attrs = {"backbone": feature_set.backbone, "facet": feature_set.facet, "stride": backbone.stride}
    with memory_advice("batch_size", batch_size):
        blocks = extract(backbone, read_ahead(batches, workers, pin=place.type == "cuda"))
        first = next(blocks)
        made = Provenance.of("features", feature_set.model_dump(mode="json"), [shard])
        depth = first[1].shape[-1]
        with RaggedWriter(
            out, "features", depth=depth, dtype=feature_set.dtype, attrs=attrs, provenance=made
        ) as writer:
            for batch, tokens, cls in track(_chain(first, blocks), len(batches), "features: batch"):
                for row, values, vector in zip(batch.rows, tokens, cls, strict=True):
                    writer.append(
                        row.id,
                        values,
                        cls=vector.astype(np.float16),
                        size=np.array(batch.size, np.int32),
                        original=np.array([row.height, row.width], np.int32),
                    )


def extract(
    backbone: Backbone, batches: Iterator[tuple[Batch, torch.Tensor]]
) -> Iterator[tuple[Batch, np.ndarray, np.ndarray]]:
    """(batch, tokens [b, h, w, d], cls [b, d]) as float32."""
    for batch, images in batches:
        tokens, cls = backbone.forward(images)
        yield batch, tokens.cpu().numpy(), cls.cpu().numpy()


def _chain(
    first: tuple[Batch, np.ndarray, np.ndarray], rest: Iterator[tuple[Batch, np.ndarray, np.ndarray]]
) -> Iterator[tuple[Batch, np.ndarray, np.ndarray]]:
    _warn_saturated(first[1][0])
    yield first
    yield from rest


def _warn_saturated(tokens: np.ndarray) -> None:
    """Say so when cosines can not tell tokens apart (the key-bias trap of DINOv2-like models)."""
    rows = tokens.reshape(-1, tokens.shape[-1])
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    cosine = float(np.square(np.linalg.norm(rows.mean(0))))
    if cosine > SATURATED:
        print(
            f"features: tokens of the first image have a mean cosine of {cosine:.2f}: graph cuts will see one blob; "
            "use facet: key with key_bias: subtract",
            file=sys.stderr,
        )

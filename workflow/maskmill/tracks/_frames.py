"""Frames of shards: their regions, of masks or instances, and their tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from maskmill.errors import StoreError
from maskmill.images.instances import InstanceStore
from maskmill.recipe.sections import Tracks
from maskmill.store.manifest import Row
from maskmill.store.ragged import Ragged
from maskmill.tracks._match import Frame
from maskmill.tracks._regions import Regions, regions_of_instances, regions_of_mask

_OPEN = 3  # shards whose stores are open at a time


@dataclass(frozen=True)
class FrameFiles:
    """The files of some shards, one a shard of each; a stem names its shard.

    Attributes:
        masks: Ragged "masks" of the last round. features: Ragged "features", where tokens are asked for. instances: of
            a last round that predicts them; these are the regions then.
    """

    masks: Sequence[str | Path]
    features: Sequence[str | Path] = ()
    instances: Sequence[str | Path] = ()


class Frames:
    """Reads frames by the rows of the manifest.

    Raises:
        StoreError: a store is absent, damaged, or lacks an image.
    """

    def __init__(self, files: FrameFiles, settings: Tracks) -> None:
        self.settings = settings
        self._masks, self._features, self._instances = map(_by_shard, (files.masks, files.features, files.instances))
        self._kept: dict[str, tuple[Ragged, Ragged | None, InstanceStore | None]] = {}

    def of(self, row: Row) -> Frame:
        """The frame of an image."""
        _, tokens, _ = self._stores(row.shard)
        return Frame.of(self.regions(row), None if tokens is None else tokens[row.id])

    def regions(self, row: Row) -> Regions:
        """The regions of an image."""
        masks, _, instances = self._stores(row.shard)
        if instances is not None:
            return regions_of_instances(instances[row.id], self.settings.min_area)
        return regions_of_mask(masks[row.id], self.settings.min_area)

    def hashes(self, shard: str) -> list[str]:
        """Of the stores of a shard."""
        return [store.hash for store in self._stores(shard) if store is not None]

    def instances(self, row: Row) -> InstanceStore | None:
        """The store of an image's instances."""
        return self._stores(row.shard)[2]

    def _stores(self, shard: str) -> tuple[Ragged, Ragged | None, InstanceStore | None]:
        if shard not in self._kept:
            if shard not in self._masks:
                raise StoreError(f"tracks: no masks of shard {shard!r} are given; run snakemake again to make them")
            features, instances = self._features.get(shard), self._instances.get(shard)
            self._kept[shard] = (
                Ragged(self._masks[shard], "masks"),
                Ragged(features, "features") if features is not None and self.settings.looks else None,
                InstanceStore(instances) if instances is not None else None,
            )
            while len(self._kept) > _OPEN:
                del self._kept[next(iter(self._kept))]
        return self._kept[shard]


class Recent:
    """The frames that were asked for last: neighbours are compared several times."""

    def __init__(self, frames: Frames, most: int) -> None:
        self._frames, self._most = frames, most
        self._kept: dict[str, Frame] = {}

    def __getitem__(self, row: Row) -> Frame:
        if row.id not in self._kept:
            self._kept[row.id] = self._frames.of(row)
            while len(self._kept) > self._most:
                del self._kept[next(iter(self._kept))]
        return self._kept[row.id]


def _by_shard(paths: Sequence[str | Path]) -> Mapping[str, Path]:
    return {Path(path).stem: Path(path) for path in paths}

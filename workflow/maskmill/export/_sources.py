"""What export reads, shard by shard: masks, segments, region scores and clusters of each image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from maskmill.errors import StoreError
from maskmill.export._layout import suffix_of
from maskmill.images.instances import Instances, InstanceStore
from maskmill.images.stitching import Picture
from maskmill.store.artefact import read_table
from maskmill.store.class_names import read as read_class_names
from maskmill.store.manifest import Row, read_manifest
from maskmill.store.ragged import Ragged

_OPEN = 2  # stores of masks at a time: windows of an image lie in neighbouring shards
_SMALL = 64 << 20  # bytes of a store that is kept in memory


@dataclass(frozen=True)
class ExportFiles:
    """The files that export reads: the manifest, and one file a shard of each artefact, whose stem names the shard.

    Attributes:
        masks: Ragged "masks". segments, assignments, regions: of recipes with regions: Ragged "segments", and Parquet
            tables of the stages cluster and regions; without all three there is no `coco_regions.json`.
        instances: of a last round that predicts them; `coco.json` then holds each of them with its score, overlapping
            or not, instead of the parts of the masks.
        classes: classes.json of the stage taxonomy, which says what the confidence of the regions rests on.
        tracks: Ragged "tracks" of recipes with that stage.
    """

    manifest: str | Path
    masks: Sequence[str | Path]
    segments: Sequence[str | Path] = ()
    assignments: Sequence[str | Path] = ()
    regions: Sequence[str | Path] = ()
    instances: Sequence[str | Path] = ()
    classes: str | Path | None = None
    tracks: Sequence[str | Path] = ()


@dataclass(frozen=True)
class Region:
    """One region of an image: segment id, cluster from 0, distance to its centre, confidence of the cut.

    Attributes:
        confidence: how often the class of such a region is right; None where no labels have calibrated it.
    """

    region: int
    cluster: int
    distance: float
    score: float
    confidence: float | None = None


@dataclass(frozen=True)
class Tracked:
    """What goes on in an image of a sequence.

    Attributes:
        ids: uint32 [h, w], track of each cell of the mask, 0 for none. regions: number of a region (of instances their
            place, from 1) -> track. place: the sequence and the position in it, from 0; None for an image by itself.
    """

    ids: np.ndarray
    regions: Mapping[int, int]
    place: tuple[str, int] | None


@dataclass(frozen=True)
class Item:
    """One image: its row, its mask [h, w], with a cut its segments [h, w] and their regions, and its instances.

    valid: bool [h, w], the cells of the mask that show data; None where all do. tracked: of recipes with tracks.
    """

    row: Row
    mask: np.ndarray
    segments: np.ndarray | None
    regions: Sequence[Region]
    instances: Instances | None = None
    valid: np.ndarray | None = None
    tracked: Tracked | None = None


class ExportImages:
    """The artefacts of all shards, or of one; a file's stem names its shard. One shard's tables are in
    memory at a time.

    Attributes:
        clusters, ignore: number of clusters and ignore value of the masks.
        things: classes 1..things of the masks are of things, the others of stuff; None where they know no such thing.
        hashes: hashes of the stores that were read so far.
        calibration: what the confidence of regions rests on (`Calibration.facts`); empty where labels made no class.
    """

    def __init__(self, files: ExportFiles, shard: str | None = None) -> None:
        self.manifest = manifest = read_manifest(files.manifest, shard)
        self._masks, self._instances = _by_shard(files.masks), _by_shard(files.instances)
        self._segments, self._regions = _by_shard(files.segments), _by_shard(files.regions)
        self._assignments, self._tracks = _by_shard(files.assignments), _by_shard(files.tracks)
        self.has_regions = bool(self._segments and self._assignments and self._regions)
        if not manifest.rows:
            raise StoreError("the manifest has no image; run snakemake again")
        first = Ragged(_pick(self._masks, manifest.shards[0]), "masks")
        self.clusters, self.ignore = int(first.attrs["clusters"]), int(first.attrs["ignore"])
        self.things: int | None = first.attrs.get("things")
        self.hashes: list[str] = []
        self._kept: dict[str, _Kept] = {}
        body = read_class_names(files.classes).body if files.classes is not None else {}
        self.calibration: Mapping[str, Any] = body.get("calibration", {})

    def __len__(self) -> int:
        return len(self.manifest.rows)

    @property
    def has_instances(self) -> bool:
        """Whether images come with instances."""
        return bool(self._instances)

    @property
    def has_tracks(self) -> bool:
        """Whether things have a number in all images of a sequence."""
        return bool(self._tracks)

    @property
    def is_calibrated(self) -> bool:
        """Whether regions have a confidence."""
        return self.has_regions and self.calibration.get("kind", "none") != "none"

    @property
    def facts(self) -> dict[str, Any]:
        """{"confidence": sentence} of recipes with regions whose classes labels made; else nothing."""
        return {"confidence": self.calibration["sentence"]} if self.has_regions and self.calibration else {}

    @property
    def suffix(self) -> str | None:
        """Of all photos' files, or None where they differ."""
        suffixes = {suffix_of(row) for row in self.manifest.rows}
        return suffixes.pop() if len(suffixes) == 1 else None

    def __iter__(self) -> Iterator[Item]:
        for shard in self.manifest.shards:
            masks = self._open(_pick(self._masks, shard), "masks")
            if (masks.attrs["clusters"], masks.attrs["ignore"]) != (self.clusters, self.ignore):
                raise StoreError(
                    f"{masks.path}: {masks.attrs['clusters']} clusters, other shards have {self.clusters}; "
                    "delete it and run snakemake again"
                )
            rows = self.manifest.of(shard)
            regions: Mapping[str, Sequence[Region]] = {}
            segments: Iterator[tuple[str, np.ndarray | None]] = ((row.id, None) for row in rows)
            if self.has_regions:
                segments = in_order(self._open(_pick(self._segments, shard), "segments"), rows)
                regions = read_regions(_pick(self._assignments, shard), _pick(self._regions, shard))
            found, tracks = self._found(shard), self._followed(shard)
            for row, (_, mask), (_, cut) in zip(rows, in_order(masks, rows), segments, strict=True):
                instances = None if found is None else found[row.id]
                tracked = None if tracks is None else _tracked(tracks, row.id)
                yield Item(row, mask, cut, regions.get(row.id, ()), instances, masks.valid(row.id), tracked)

    def mask(self, picture: Picture) -> np.ndarray:
        """The mask [h, w] of one picture, whatever its shard; the last shards stay open, as windows of an image share
        them.
        """
        shard = self.manifest.row(picture.id).shard
        if shard not in self._kept:
            self._kept[shard] = _Kept(Ragged(_pick(self._masks, shard), "masks"))
            while len(self._kept) > _OPEN:
                del self._kept[next(iter(self._kept))]
        return self._kept[shard].mask(picture.id)

    def _found(self, shard: str) -> InstanceStore | None:
        """The shard's instances, where there are any."""
        if not self._instances:
            return None
        self._open(_pick(self._instances, shard), "instances")
        return InstanceStore(self._instances[shard])

    def _followed(self, shard: str) -> Ragged | None:
        """The shard's tracks, where there are any."""
        return self._open(_pick(self._tracks, shard), "tracks") if self._tracks else None

    def _open(self, path: Path, kind: str) -> Ragged:
        """A store of exactly the shard's images, in any order: that of features follows the sizes of the images."""
        store = Ragged(path, kind)
        if sorted(store.ids) != sorted(row.id for row in self.manifest.of(path.stem)):
            raise StoreError(f"{path}: holds other images than the manifest's shard; delete it and run snakemake again")
        self.hashes.append(store.hash)
        return store


class _Kept:
    """Masks of one shard by id; a small shard is read once, as a read of one small mask decodes hundreds."""

    def __init__(self, store: Ragged) -> None:
        rows, width = store.values.shape[0], store.values.dtype.itemsize
        self._store = store
        self._rows = store.rows(0, rows) if rows * width <= _SMALL else None

    def mask(self, image_id: str) -> np.ndarray:
        """[h, w]."""
        if self._rows is None:
            return self._store[image_id]
        i = self._store.index(image_id)
        h, w = (int(side) for side in self._store.grid[i])
        return self._rows[int(self._store.offsets[i]) : int(self._store.offsets[i + 1])].reshape(h, w)


def in_order(store: Ragged, rows: Sequence[Row]) -> Iterator[tuple[str, np.ndarray]]:
    """(id, values) of the store's images in the order of `rows`; in one pass where that is the store's own order."""
    if store.ids == [row.id for row in rows]:
        return store.images()
    return ((row.id, store[row.id]) for row in rows)


def _tracked(store: Ragged, image_id: str) -> Tracked:
    i = store.index(image_id)
    place = store.attrs["places"][i]
    return Tracked(store[i], dict(store.attrs["regions"][i]), None if place is None else (place[0], int(place[1])))


def _by_shard(paths: Sequence[str | Path]) -> dict[str, Path]:
    return {Path(path).stem: Path(path) for path in paths}


def _pick(paths: Mapping[str, Path], shard: str) -> Path:
    if shard not in paths:
        known = next(iter(paths.values())).parent if paths else "export"
        raise StoreError(f"{known}: nothing for shard {shard!r}; run snakemake again to make it")
    return paths[shard]


def read_regions(assignments: Path, table: Path) -> dict[str, list[Region]]:
    """{image id: its regions} of one shard, from its assignments and its region table.

    Raises:
        StoreError: an assignment names a region that the table does not have.
    """
    scores = read_table(table, ["image", "region", "score"])
    keys = zip(scores["image"].to_pylist(), scores["region"].to_pylist(), strict=True)
    score = dict(zip(keys, scores["score"].to_pylist(), strict=True))
    rows = read_table(assignments, ["image", "region", "cluster", "distance"], optional=["confidence"])
    found: dict[str, list[Region]] = {}
    columns = [rows[name].to_pylist() for name in ("image", "region", "cluster", "distance")]
    sure = rows["confidence"].to_pylist() if "confidence" in rows.column_names else [None] * len(rows)
    for image, region, cluster, distance, confidence in zip(*columns, sure, strict=True):
        if (image, region) not in score:
            raise StoreError(
                f"{table}: has no region {region} of {image!r}, which {assignments} names; run snakemake again"
            )
        found.setdefault(image, []).append(Region(region, cluster, distance, score[image, region], confidence))
    return found

"""The files of an export that grow image by image."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from maskmill import __version__
from maskmill.errors import StoreError
from maskmill.export._clusters import Clusters
from maskmill.export._coco import CocoWriter, annotation_text, image_text
from maskmill.export._layout import file_name, placed
from maskmill.export._picture import Picture
from maskmill.export._sources import ExportImages, Item, Tracked
from maskmill.export.formats import FORMATS, Entry, Facts
from maskmill.images.instances import VOID
from maskmill.images.masks import to_size
from maskmill.recipe.export import Export
from maskmill.store.manifest import Row
from maskmill.store.rle import encode_all, encode_layers

MASKS, COCO, REGIONS = "masks", "coco.json", "coco_regions.json"  # names of entries beside those of formats
TRACKS = "coco_tracks.json"


@dataclass(frozen=True)
class Kind:
    """What masks and regions of all shards have in common.

    Attributes:
        clusters, ignore, has_regions, has_instances, is_calibrated, facts, has_tracks, things: see
            `ExportImages`.
    """

    clusters: int
    ignore: int
    has_regions: bool
    has_instances: bool
    is_calibrated: bool
    facts: dict[str, Any]
    has_tracks: bool = False
    things: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """As a part of an export has it: one without tracks or stuff says nothing of them, as before there were any."""
        body, absent = asdict(self), {"has_tracks": False, "things": None}
        return {key: value for key, value in body.items() if key not in absent or value != absent[key]}

    @classmethod
    def of(cls, sources: ExportImages) -> Kind:
        """Of some shards."""
        return cls(**{field.name: getattr(sources, field.name) for field in fields(cls)})


class Making:
    """What is made of each image by itself.

    Attributes:
        names: of the entries of an image. table: counts of all images that were made.
    """

    def __init__(self, settings: Export, facts: Facts, kind: Kind, folder: Path, keep: bool = False) -> None:
        self.settings, self.naming, self.ignore = settings, facts.naming, kind.ignore
        self.things = kind.things
        self.table = Clusters(facts.naming, kind.is_calibrated, keep)
        self.png_palette = facts.naming.png_palette()
        self.formats = {name: FORMATS[name](folder / name, facts) for name in settings.formats if name in FORMATS}
        wanted = {MASKS: settings.masks, COCO: settings.coco, REGIONS: settings.coco and kind.has_regions}
        wanted[TRACKS] = settings.coco and kind.has_tracks
        self.names = [name for name, asked in wanted.items() if asked] + list(self.formats)

    def entries(self, item: Item) -> dict[str, Entry]:
        """The entries of one image."""
        row, size = item.row, (item.row.height, item.row.width)
        mask = to_size(item.mask, size)
        shown = mask.size if item.valid is None else int(to_size(item.valid, size).sum())
        self.table.add_mask(row.id, self._counts(mask, row), shown)
        found = item.instances.at(size) if item.instances is not None else None
        picture = Picture(row, mask, found, self.png_palette, self.things)
        made = {name: each.entry(picture) for name, each in self.formats.items()}
        if MASKS in self.names:
            made[MASKS] = Entry(body=picture.png)
        if COCO in self.names:
            made[COCO] = Entry(self._segments(picture))
        if TRACKS in self.names and item.tracked is not None:
            made[TRACKS] = Entry(_followed(picture, item.tracked))
        regions = {region.region: region for region in item.regions if region.cluster >= 0}  # -1 is noise
        for region in regions.values():
            self.table.add_region(row.id, region.cluster + 1, region.score, region.distance, region.confidence)
        if REGIONS in self.names:
            lines = []
            for value, rle in encode_all(to_size(item.segments, size)) if item.segments is not None else ():
                if value in regions:
                    own = regions[value]
                    more = {"score": _short(own.score), "distance": _short(own.distance), "region": value}
                    if own.confidence is not None:
                        more["confidence"] = round(own.confidence, 4)
                    lines.append(annotation_text(own.cluster + 1, rle, **more))
            made[REGIONS] = Entry("\n".join([_image(picture), *lines]) if item.segments is not None else "")
        return made

    def _segments(self, picture: Picture) -> str:
        """The image in coco.json: parts of the mask, or of these only stuff, and instances with their scores."""
        lines = [_image(picture)]
        lines += [annotation_text(value, rle) for value, rle in encode_all(picture.mask) if picture.is_part(value)]
        if picture.found is None:
            return "\n".join(lines)
        for i, layer in enumerate(encode_layers(picture.found.masks)):
            if layer is not None and picture.found.labels[i] != VOID:
                score = _short(float(picture.found.scores[i]))
                lines.append(annotation_text(int(picture.found.labels[i]), layer, score=score))
        return "\n".join(lines)

    def _counts(self, mask: np.ndarray, row: Row) -> np.ndarray:
        """Pixels of background and clusters [k + 1]; any value between k and ignore is damage."""
        clusters = self.naming.count
        counts = np.bincount(mask.ravel(), minlength=self.ignore + 1)
        if counts[clusters + 1 : self.ignore].any():
            raise StoreError(f"mask of {row.id!r}: values beyond {clusters} clusters; run snakemake again")
        return counts[: clusters + 1]


class Folder:
    """Where the entries go: every image gets its number and the names of its files, in the order of the images."""

    def __init__(self, folder: Path, making: Making, about: Mapping[str, Any]) -> None:
        self.folder, self.names = folder, making.names
        self.renamed: list[tuple[str, str]] = []  # id, file in masks/
        naming = making.naming
        kinds = [
            {"id": c, "name": naming.names[c], "supercategory": naming.kind, "color": naming.colours[c].tolist()}
            for c in range(1, naming.count + 1)
        ]
        info = {"description": title(about), **about}
        self._coco = {
            name: CocoWriter(folder / name, info, kinds) for name in (COCO, REGIONS, TRACKS) if name in self.names
        }
        self._formats = making.formats

    def __enter__(self) -> Folder:
        with contextlib.ExitStack() as stack:
            for coco in self._coco.values():
                stack.enter_context(coco)
            for each in self._formats.values():
                stack.enter_context(each)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def add(self, row: Row, entries: Mapping[str, Entry]) -> None:
        """Write one image to every file."""
        if MASKS in self.names:
            name = placed(self.folder / "masks", row.id, ".png", row, entries[MASKS].body)
            if name != row.id:
                self.renamed.append((row.id, f"{name}.png"))
        for name, each in self._formats.items():
            each.add(row, entries[name])
        for name, coco in self._coco.items():
            if entries[name].text:
                coco.add(entries[name].text)


def _followed(picture: Picture, tracked: Tracked) -> str:
    """The image in coco_tracks.json: what has a track, each with its own; nothing for an image by itself."""
    if tracked.place is None:
        return ""
    sequence, position = tracked.place
    lines = [_image(picture, sequence=sequence, position=position)]
    if picture.found is None:
        ids = to_size(tracked.ids, picture.size)
        values, first = np.unique(ids, return_index=True)
        classes = dict(zip(values.tolist(), picture.mask.ravel()[first].tolist(), strict=True))
        lines += [annotation_text(classes[track], rle, track_id=track) for track, rle in encode_all(ids) if track]
        return "\n".join(lines)
    for i, layer in enumerate(encode_layers(picture.found.masks)):
        if layer is not None and i + 1 in tracked.regions:
            score = _short(float(picture.found.scores[i]))
            track = tracked.regions[i + 1]
            lines.append(annotation_text(int(picture.found.labels[i]), layer, track_id=track, score=score))
    return "\n".join(lines)


def title(about: Mapping[str, Any]) -> str:
    """What made the masks, in words."""
    return f"maskmill {__version__}, recipe {about['recipe']}, seed {about['seed']}"


def _image(picture: Picture, **more: Any) -> str:
    return image_text(file_name(picture.row), *picture.size, maskmill_id=picture.row.id, **more)


def _short(value: float) -> float:
    """Seven significant digits: what float32 holds."""
    return float(f"{value:.7g}")

"""export: masks -> indexed PNG, COCO JSON, clusters.csv, and a segmenter. File reading and writing of the stage."""

from __future__ import annotations

import contextlib
import csv
import errno
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from maskmill import __version__
from maskmill.errors import StoreError
from maskmill.export._clusters import Clusters, name_of
from maskmill.export._coco import CocoWriter
from maskmill.export._sources import ExportFiles, ExportImages, Item
from maskmill.export.segmenter import SegmenterParts
from maskmill.images.masks import MaskSet, to_size
from maskmill.images.palette import palette, png_palette
from maskmill.progress import track
from maskmill.recipe.base import validate
from maskmill.recipe.sections import Export
from maskmill.store.artefact import read_json, write_json
from maskmill.store.atomic import atomic
from maskmill.store.hashing import json_hash
from maskmill.store.manifest import Row
from maskmill.store.provenance import Provenance
from maskmill.store.rle import encode_all, encode_layers


def run(
    files: ExportFiles,
    params: Mapping[str, Any],
    out_folder: str | Path,
    masks: MaskSet,
    *,
    scores: str | Path | None = None,
    segmenter: SegmenterParts | None = None,
) -> None:
    """Write one folder of files for other tools; it appears when complete.

    Args:
        params: the `export` section.
        masks: of which recipe, seed and round they are.
        scores: scores.json of this round, for the matched class of each cluster.
        segmenter: what `maskmill predict` needs, copied to `segmenter/`.

    Raises:
        StoreError: an image of the manifest has no mask, or the artefacts do not belong together.
    """
    settings = validate(Export, params, "--params", "export")
    sources = ExportImages(files)
    about: dict[str, Any] = asdict(masks) | {"clusters": sources.clusters}
    classes, iou = _matched(scores)
    with atomic(out_folder) as folder:
        folder.mkdir()
        with _Folder(folder, settings, sources, about) as out:
            for item in track(sources, len(sources), "export"):
                out.add(item)
        out.table.write(folder / "clusters.csv", classes, iou)
        if out.renamed:
            _write_renamed(folder / "renamed.csv", out.renamed)
        kind = segmenter.kind if segmenter is not None else None
        made = Provenance.of("export", dict(params) | about, sources.hashes)
        if segmenter is not None and kind is not None:
            segmenter.write(folder / "segmenter", about, made)
        write_json(folder / "export.json", about | {"segmenter": kind}, made)


class _Folder:
    """The files that grow image by image."""

    def __init__(self, folder: Path, settings: Export, sources: ExportImages, about: Mapping[str, Any]) -> None:
        self.folder, self.settings = folder, settings
        self.clusters, self.ignore = sources.clusters, sources.ignore
        self.table = Clusters(sources.clusters)
        self.renamed: list[tuple[str, str]] = []  # id, file in masks/
        colours = palette(sources.clusters + 1)
        self.png_palette = png_palette(sources.clusters)
        kinds = [
            {"id": c, "name": name_of(c), "supercategory": "cluster", "color": colours[c].tolist()}
            for c in range(1, sources.clusters + 1)
        ]
        info = {"description": f"maskmill {__version__}, recipe {about['recipe']}, seed {about['seed']}", **about}
        named = [("coco.json", settings.coco), ("coco_regions.json", settings.coco and sources.has_regions)]
        self._coco = [CocoWriter(folder / name, info, kinds) if wanted else None for name, wanted in named]

    def __enter__(self) -> _Folder:
        self._stack = contextlib.ExitStack()
        for writer in self._coco:
            if writer:
                self._stack.enter_context(writer)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def add(self, item: Item) -> None:
        """Write one image to every file."""
        row, size = item.row, (item.row.height, item.row.width)
        mask = to_size(item.mask, size)
        self.table.add_mask(row.id, self._counts(mask, row), mask.size)
        if self.settings.masks:
            self._png(mask, row)
        whole, proposals = self._coco
        if whole:
            image = whole.image(file_name(row), *size, maskmill_id=row.id)
            if item.instances is None:
                for value, rle in encode_all(mask):
                    if 0 < value < self.ignore:
                        whole.annotation(image, value, rle)
            else:
                found_there = item.instances.at(size)
                for i, layer in enumerate(encode_layers(found_there.masks)):
                    if layer is not None:
                        score = _short(float(found_there.scores[i]))
                        whole.annotation(image, int(found_there.labels[i]), layer, score=score)
        regions = {region.region: region for region in item.regions if region.cluster >= 0}  # -1 is noise
        for region in regions.values():
            self.table.add_region(row.id, region.cluster + 1, region.score, region.distance)
        if proposals and item.segments is not None:
            image = proposals.image(file_name(row), *size, maskmill_id=row.id)
            for value, rle in encode_all(to_size(item.segments, size)):
                if value in regions:
                    found = regions[value]
                    more = {"score": _short(found.score), "distance": _short(found.distance), "region": value}
                    proposals.annotation(image, found.cluster + 1, rle, **more)

    def _counts(self, mask: np.ndarray, row: Row) -> np.ndarray:
        """Pixels of background and clusters [k + 1]; any value between k and ignore is damage."""
        counts = np.bincount(mask.ravel(), minlength=self.ignore + 1)
        if counts[self.clusters + 1 : self.ignore].any():
            raise StoreError(f"mask of {row.id!r}: values beyond {self.clusters} clusters; run snakemake again")
        return counts[: self.clusters + 1]

    def _png(self, mask: np.ndarray, row: Row) -> None:
        """masks/<id>.png: indexed with the palette, or 16-bit grey where the clusters exceed a palette."""
        masks = self.folder / "masks"
        path = masks / f"{row.id}.png"
        if ".." in Path(row.id).parts or not path.is_relative_to(masks):
            raise StoreError(f"manifest: id {row.id!r} points outside the export folder; run snakemake again")
        image = Image.fromarray(mask)
        if mask.dtype == np.uint8:
            image.putpalette(self.png_palette)
        with _created(path, masks / f"~{json_hash(row.id)}.png") as file:
            image.save(file, format="PNG")
            if file.name != str(path):
                self.renamed.append((row.id, Path(file.name).name))


def _created(path: Path, instead: Path) -> BinaryIO:
    """A new file; `instead` where the file system cannot have `path`.

    The name is too long, differs from one that is there in case or accents only on a file system that cannot tell them
    apart, or is a folder for another image (`a` beside `a.png/b`).
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("xb")
    except OSError as error:
        if error.errno not in (errno.ENAMETOOLONG, errno.EEXIST, errno.ENOTDIR, errno.EISDIR):
            raise
        instead.parent.mkdir(parents=True, exist_ok=True)
        return instead.open("xb")


def _write_renamed(path: Path, renamed: Sequence[tuple[str, str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([("id", "mask"), *renamed])


def file_name(row: Row) -> str:
    """Relative name of the image: its id with the suffix of its file."""
    suffix = Path(row.path).suffix
    return row.id if row.id.endswith(suffix) else row.id + suffix


def _short(value: float) -> float:
    """Seven significant digits: what float32 holds."""
    return float(f"{value:.7g}")


def _matched(scores: str | Path | None) -> tuple[dict[str, str] | None, dict[str, float | None] | None]:
    """{cluster: class} and {class: IoU} of the first one-to-one protocol of a scores.json, else of its first."""
    if scores is None:
        return None, None
    body = read_json(scores)
    try:
        entries = sorted(body["scores"], key=lambda entry: not entry["protocol"]["name"].startswith("hungarian"))
        return entries[0]["matching"], entries[0]["per_class"]
    except (KeyError, IndexError, TypeError):
        raise StoreError(f"{scores}: not a scores.json of maskmill; delete it and run snakemake again") from None

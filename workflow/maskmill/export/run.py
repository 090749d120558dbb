"""export: masks -> indexed PNG, COCO JSON, clusters.csv, and a segmenter. File reading and writing of the stage."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from maskmill import __version__
from maskmill.errors import ConfigError, StoreError
from maskmill.export._clusters import Clusters
from maskmill.export._coco import CocoWriter
from maskmill.export._layout import created, file_name, write_renamed
from maskmill.export._picture import Picture
from maskmill.export._sources import ExportFiles, ExportImages, Item
from maskmill.export.formats import FORMATS, Facts
from maskmill.export.naming import Naming
from maskmill.export.segmenter import SegmenterParts
from maskmill.images.masks import MaskSet, to_size
from maskmill.progress import track
from maskmill.recipe.base import validate
from maskmill.recipe.sections import PALETTE, PALETTED, Export
from maskmill.store.artefact import read_json, write_json
from maskmill.store.atomic import atomic
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
    naming: Naming | None = None,
) -> None:
    """Write one folder of files for other tools; it appears when complete.

    Args:
        params: the `export` section.
        masks: of which recipe, seed and round they are.
        scores: scores.json of this round, for the matched class of each cluster.
        segmenter: what `maskmill predict` needs, copied to `segmenter/`.
        naming: names and colours of the masks' values; default: `cluster_<n>` and the palette.

    Raises:
        StoreError: an image of the manifest has no mask, or the artefacts do not belong together. ConfigError: a format
            cannot hold so many clusters. InputError: a photo that is placed beside its mask has changed.
    """
    settings = validate(Export, params, "--params", "export")
    sources = ExportImages(files)
    naming = _fitting(naming, sources.clusters, settings)
    about: dict[str, Any] = asdict(masks) | {"clusters": sources.clusters} | naming.facts | sources.facts
    classes, iou = _matched(scores)
    with atomic(out_folder) as folder:
        folder.mkdir()
        with _Folder(folder, settings, sources, about, naming) as out:
            for item in track(sources, len(sources), "export"):
                out.add(item)
        out.table.write(folder / "clusters.csv", classes, iou)
        if out.renamed:
            write_renamed(folder / "renamed.csv", out.renamed, "mask")
        kind = segmenter.kind if segmenter is not None else None
        made = Provenance.of("export", dict(params) | about, sources.hashes)
        if segmenter is not None and kind is not None:
            segmenter.write(folder / "segmenter", about, made)
        write_json(folder / "export.json", about | {"segmenter": kind}, made)


class _Folder:
    """The files that grow image by image."""

    def __init__(
        self, folder: Path, settings: Export, sources: ExportImages, about: Mapping[str, Any], naming: Naming
    ) -> None:
        self.folder, self.settings = folder, settings
        self.clusters, self.ignore = sources.clusters, sources.ignore
        self.table = Clusters(naming, calibrated=sources.is_calibrated)
        self.renamed: list[tuple[str, str]] = []  # id, file in masks/
        self.png_palette = naming.png_palette()
        kinds = [
            {"id": c, "name": naming.names[c], "supercategory": naming.kind, "color": naming.colours[c].tolist()}
            for c in range(1, sources.clusters + 1)
        ]
        title = f"maskmill {__version__}, recipe {about['recipe']}, seed {about['seed']}"
        info = {"description": title, **about}
        named = [("coco.json", settings.coco), ("coco_regions.json", settings.coco and sources.has_regions)]
        self._coco = [CocoWriter(folder / name, info, kinds) if wanted else None for name, wanted in named]
        facts = Facts(
            naming, title, len(sources), sources.suffix, sources.has_instances, settings.photos, settings.image_url
        )
        self._formats = [FORMATS[name](folder / name, facts) for name in settings.formats]

    def __enter__(self) -> _Folder:
        with contextlib.ExitStack() as stack:
            for writer in (*self._coco, *self._formats):
                if writer:
                    stack.enter_context(writer)
            self._stack = stack.pop_all()
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
        found = item.instances.at(size) if item.instances is not None else None
        picture = Picture(row, mask, found, self.png_palette)
        if self.settings.masks:
            self._png(picture)
        for each in self._formats:
            each.add(picture)
        whole, proposals = self._coco
        if whole:
            self._segments(whole, picture)
        regions = {region.region: region for region in item.regions if region.cluster >= 0}  # -1 is noise
        for region in regions.values():
            self.table.add_region(row.id, region.cluster + 1, region.score, region.distance, region.confidence)
        if proposals and item.segments is not None:
            image = proposals.image(file_name(row), *size, maskmill_id=row.id)
            for value, rle in encode_all(to_size(item.segments, size)):
                if value in regions:
                    own = regions[value]
                    more = {"score": _short(own.score), "distance": _short(own.distance), "region": value}
                    if own.confidence is not None:
                        more["confidence"] = round(own.confidence, 4)
                    proposals.annotation(image, own.cluster + 1, rle, **more)

    def _segments(self, coco: CocoWriter, picture: Picture) -> None:
        """The image in coco.json: parts of the mask, or instances with their scores."""
        image = coco.image(file_name(picture.row), *picture.size, maskmill_id=picture.row.id)
        if picture.found is None:
            for value, rle in encode_all(picture.mask):
                if 0 < value < self.ignore:
                    coco.annotation(image, value, rle)
            return
        for i, layer in enumerate(encode_layers(picture.found.masks)):
            if layer is not None:
                score = _short(float(picture.found.scores[i]))
                coco.annotation(image, int(picture.found.labels[i]), layer, score=score)

    def _counts(self, mask: np.ndarray, row: Row) -> np.ndarray:
        """Pixels of background and clusters [k + 1]; any value between k and ignore is damage."""
        counts = np.bincount(mask.ravel(), minlength=self.ignore + 1)
        if counts[self.clusters + 1 : self.ignore].any():
            raise StoreError(f"mask of {row.id!r}: values beyond {self.clusters} clusters; run snakemake again")
        return counts[: self.clusters + 1]

    def _png(self, picture: Picture) -> None:
        """masks/<id>.png."""
        file, name = created(self.folder / "masks", picture.row.id, ".png", picture.row)
        with file:
            file.write(picture.png)
        if name != picture.row.id:
            self.renamed.append((picture.row.id, f"{name}.png"))


def _fitting(naming: Naming | None, clusters: int, settings: Export) -> Naming:
    """The naming of so many clusters, which every chosen format can hold."""
    if naming is None:
        naming = Naming.default(clusters)
    if naming.count != clusters:
        raise StoreError(f"classes: {naming.count} are named, the masks have {clusters}; run snakemake again")
    small = [name for name in settings.formats if name in PALETTED]
    if small and clusters > PALETTE:
        raise ConfigError(
            f"export.formats: {small[0]} holds at most {PALETTE} classes, the masks have {clusters}; leave it out, "
            "name fewer classes, or set cluster.clusters lower"
        )
    return naming


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

"""export: masks -> indexed PNG, COCO JSON, clusters.csv, and a segmenter. File reading and writing of the stage.

What is made of an image is apart from where it goes. Few images have both done by one job (`run`). Of many, a job a
shard makes their entries (`run_shard`), and one job puts these in their places (`run_index`): the same bytes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from maskmill.errors import ConfigError, StoreError
from maskmill.export._folder import Folder, Kind, Making, title
from maskmill.export._layout import write_renamed
from maskmill.export._parts import Part, PartWriter
from maskmill.export._sources import ExportFiles, ExportImages
from maskmill.export.formats import WHOLE, Entry, Facts, WholeFacts
from maskmill.export.naming import Naming
from maskmill.export.segmenter import SegmenterParts
from maskmill.export.whole import WholeFolders, advise, write_whole
from maskmill.images.masks import MaskSet, mask_dtype
from maskmill.images.stitching import canvases
from maskmill.progress import track
from maskmill.recipe.base import validate
from maskmill.recipe.export import PALETTE, PALETTED, Export
from maskmill.store.artefact import count_rows, read_json, read_table, write_json
from maskmill.store.atomic import atomic
from maskmill.store.manifest import Row, has_windows, read_shard, read_shards
from maskmill.store.provenance import Provenance


@dataclass(frozen=True)
class More:
    """What an export has besides masks.

    Attributes:
        scores: scores.json of this round, for the matched class of each cluster. segmenter: what `maskmill predict`
            needs, copied to `segmenter/`. naming: names and colours of the masks' values; default: `cluster_<n>` and
            the palette.
    """

    scores: str | Path | None = None
    segmenter: SegmenterParts | None = None
    naming: Naming | None = None


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
        scores, segmenter, naming: see `More`.

    Raises:
        StoreError: an image of the manifest has no mask, or the artefacts do not belong together. ConfigError: a format
            cannot hold so many clusters. InputError: a photo that is placed beside its mask has changed.
    """
    sources, more = ExportImages(files), More(scores, segmenter, naming)
    export = _Export(params, masks, more, Kind.of(sources))

    def entries(making: Making) -> Iterator[tuple[Row, Mapping[str, Entry]]]:
        for item in sources:
            yield item.row, making.entries(item)

    with atomic(out_folder) as folder:
        folder.mkdir()
        making = export.making(folder, len(sources), sources.suffix)
        export.place(folder, making, track(entries(making), len(sources), "export"))
        export.stitch(folder, sources)
        export.finish(folder, making, sources.hashes, files.manifest)


def run_shard(
    files: ExportFiles, params: Mapping[str, Any], out_folder: str | Path, masks: MaskSet, naming: Naming | None = None
) -> None:
    """Make the entries of one shard's images, for `run_index`; the files are those of one shard.

    Raises:
        As `run`.
    """
    sources = ExportImages(files, Path(files.masks[0]).stem)
    export = _Export(params, masks, More(naming=naming), Kind.of(sources))
    with atomic(out_folder) as folder:
        folder.mkdir()
        making = export.making(folder, len(sources), None, keep=True)
        with PartWriter(folder, making.names, export.settings.photos) as part:
            for item in track(sources, len(sources), "export"):
                part.add(item.row, making.entries(item))
            facts = {"kind": export.kind.as_dict(), "hashes": sources.hashes}
            part.finish(making.table, facts, Provenance.of("export", dict(params) | export.about, sources.hashes))


def run_index(
    files: ExportFiles, parts: Path, params: Mapping[str, Any], out_folder: str | Path, masks: MaskSet, more: More
) -> None:
    """Write what `run` writes, from a folder of what `run_shard` wrote of every shard.

    Of the files, the manifest is read, and the masks where whole images are put together from them.

    Raises:
        StoreError: a part is missing, damaged, or does not belong to the others. ConfigError: as `run`.
    """
    manifest = files.manifest
    shards, count = read_shards(manifest), count_rows(manifest)
    if not shards:
        raise StoreError("the manifest has no image; run snakemake again")
    first = read_json(parts / shards[0] / "part.json")
    export = _Export(params, masks, more, Kind(**first["kind"]))
    hashes: list[str] = []

    def entries(making: Making) -> Iterator[tuple[Row, Mapping[str, Entry]]]:
        for shard in shards:
            part = Part(parts / shard, making.names, export.settings.photos)
            if part.body["kind"] != first["kind"]:
                raise StoreError(f"{part.folder}: unlike the other shards; delete it and run snakemake again")
            yield from zip(read_shard(manifest, shard), part, strict=True)
            making.table.add(part.body["counts"], part.arrays)
            hashes.extend(part.body["hashes"])

    with atomic(out_folder) as folder:
        folder.mkdir()
        making = export.making(folder, count, _suffix(manifest) if "mmseg" in export.settings.formats else None)
        export.place(folder, making, track(entries(making), count, "export"))
        if export.stitches or has_windows(manifest):
            export.stitch(folder, ExportImages(files))
        export.finish(folder, making, hashes, manifest)


class _Export:
    """What is the same for all images of an export."""

    def __init__(self, params: Mapping[str, Any], masks: MaskSet, more: More, kind: Kind) -> None:
        self.settings = validate(Export, params, "--params", "export")
        self.params, self.more, self.kind = params, more, kind
        self.naming = _fitting(more.naming, kind.clusters, self.settings)
        self.about: dict[str, Any] = asdict(masks) | {"clusters": kind.clusters} | self.naming.facts | kind.facts

    def making(self, folder: Path, images: int, suffix: str | None, keep: bool = False) -> Making:
        settings, kind = self.settings, self.kind
        facts = Facts(
            self.naming, title(self.about), images, suffix, kind.has_instances, settings.photos, settings.image_url,
            kind.things,
        )  # fmt: skip
        return Making(settings, facts, kind, folder, keep)

    def place(self, folder: Path, making: Making, entries: Iterator[tuple[Row, Mapping[str, Entry]]]) -> None:
        """Write the files that grow image by image."""
        with Folder(folder, making, self.about) as out:
            for row, each in entries:
                out.add(row, each)
        if out.renamed:
            write_renamed(folder / "renamed.csv", out.renamed, "mask")

    @property
    def stitches(self) -> list[str]:
        """The formats that put the windows of an image together."""
        return [name for name in self.settings.formats if name in WHOLE]

    def stitch(self, folder: Path, sources: ExportImages) -> None:
        """Formats of whole images: the masks of an image's windows are read from the stores, image by image."""
        found = canvases(sources.manifest.rows)
        if said := advise(found, self.settings.formats):
            print(said, file=sys.stderr)
        if self.stitches:
            facts = WholeFacts(self.naming, title(self.about), self.settings.tolerance)
            write_whole(WholeFolders(folder, self.stitches, facts), found, sources.mask, mask_dtype(sources.clusters))

    def finish(self, folder: Path, making: Making, hashes: Sequence[str], manifest: str | Path) -> None:
        """Write what is known after the last image."""
        classes, iou = _matched(self.more.scores)
        making.table.write(folder / "clusters.csv", classes, iou)
        segmenter = self.more.segmenter
        kind = segmenter.kind if segmenter is not None else None
        made = Provenance.of("export", dict(self.params) | self.about, hashes)
        if segmenter is not None and kind is not None:
            segmenter.write(folder / "segmenter", self.about | segmenter.reading(manifest), made)
        write_json(folder / "export.json", self.about | {"segmenter": kind}, made)


def _suffix(manifest: str | Path) -> str | None:
    """`suffix_of` all images, or None where they differ."""
    import pyarrow.compute as pc

    table, found = read_table(manifest, ["path"], optional=["parent"]), set[str]()
    if "parent" in table.column_names:
        parts = table["parent"].is_valid()
        found |= {".png"} if parts.to_numpy().any() else set()
        table = table.filter(pc.invert(parts))
    found |= {PurePosixPath(path).suffix for chunk in table["path"].chunks for path in chunk.to_pylist()}
    return found.pop() if len(found) == 1 else None


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

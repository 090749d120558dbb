"""The manifest: which images, under which stable ids, in which shards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

from maskmill.errors import StoreError
from maskmill.store.artefact import read_column, read_table
from maskmill.store.hashing import json_hash

REJECTED_CRC32C = b"rejected_crc32c"  # key of the table's metadata: of the list of rejected files beside it
RENDERING = b"rendering"  # another key: how files become pictures, where one of them is no whole photo
ROW_GROUP = 16384  # rows of the file that are read or left together; shards lie in the order of the rows
_COLUMNS = ["id", "path", "width", "height", "shard", "label"]
_CONTENTS = ["label_digest", "bytes", "crc32c"]  # of every manifest that the stage `inputs` has written
_VIEWS = ["parent", "view"]  # of those with a picture that is not a whole photo
_DEPTHS = ["depth", "depth_digest"]  # of those with depth maps
_OPTIONAL = [*_CONTENTS, *_VIEWS, *_DEPTHS]


@dataclass(frozen=True, slots=True)
class Row:
    """One image: id, absolute path, size in pixels as displayed (after EXIF rotation), shard, label file or None.

    Attributes:
        label_digest: of the bytes of the label file (maskmill.images.labels). bytes, crc32c: of the image file. All are
            None where nothing is known of the contents; then whoever reads the file takes it as it is.
        parent: id of the image that this one is a window, a page or a composite of, or None.
        view: how the picture is read from the file (maskmill.images.view), or None for a photo. Of a picture with a
            view, `crc32c` is that of its decoded values, and `bytes` their number: no more of the file is read for it.
        depth, depth_digest: its depth map (maskmill.images.depth) and a digest of the file's bytes, or None.
    """

    id: str
    path: str
    width: int
    height: int
    shard: str
    label: str | None
    label_digest: str | None = None
    bytes: int | None = None
    crc32c: int | None = None
    parent: str | None = None
    view: str | None = None
    depth: str | None = None
    depth_digest: str | None = None

    @property
    def owner(self) -> str:
        """Id of the image that it is of: the parent of a window, page or composite, else its own."""
        return self.parent or self.id


@dataclass(frozen=True)
class Manifest:
    """All rows, sorted by id; `path` is where they were read, for messages."""

    rows: tuple[Row, ...]
    path: str = "the manifest"

    @cached_property
    def shards(self) -> list[str]:
        """Shard names in order of first appearance."""
        return list(self._by_shard)

    @cached_property
    def by_id(self) -> dict[str, Row]:
        """Row by image id."""
        return {row.id: row for row in self.rows}

    def row(self, image_id: str) -> Row:
        """The row of an image; an id that the manifest does not have is a StoreError."""
        try:
            return self.by_id[image_id]
        except KeyError:
            raise StoreError(
                f"{self.path}: holds no image {image_id!r}; run snakemake again, the images have changed"
            ) from None

    @property
    def ids(self) -> list[str]:
        """Image ids, sorted."""
        return [row.id for row in self.rows]

    @cached_property
    def _by_shard(self) -> dict[str, list[Row]]:
        groups: dict[str, list[Row]] = {}
        for row in self.rows:
            groups.setdefault(row.shard, []).append(row)
        return groups

    def of(self, shard: str) -> list[Row]:
        """Rows of one shard, sorted by id; a shard that the manifest does not have is a StoreError."""
        if shard not in self._by_shard:
            raise StoreError(f"shard {shard!r} is not in the manifest; run snakemake again, the images have changed")
        return self._by_shard[shard]


def window_id(image_id: str, top: int, left: int) -> str:
    """The id of a window of an image, by its place in pixels of the level: sorted, ids go row by row."""
    return f"{image_id}/y{top:07d}x{left:07d}"


def read_manifest(path: str | Path, shard: str | None = None) -> Manifest:
    """Read results/inputs/manifest.parquet; raises StoreError where it is missing, truncated or foreign.

    Args:
        shard: read the rows of this shard only, and all rows where it has none: the jobs of 10^7 images must not each
            hold 10^7 rows.
    """
    table = read_table(path, _COLUMNS, None if shard is None else ("shard", shard), _OPTIONAL)
    if shard is not None and not len(table):
        table = read_table(path, _COLUMNS, optional=_OPTIONAL)
    return Manifest(tuple(_rows(table)), str(path))


def _rows(table: Any) -> Iterator[Row]:
    names = table.column_names
    columns = (table[name].to_pylist() for name in names)
    return (Row(**dict(zip(names, values, strict=True))) for values in zip(*columns, strict=True))


def read_images(path: str | Path, choose: Callable[[Iterable[str]], Sequence[int]]) -> list[Row]:
    """The rows of some images, whatever their shards; of the others no more than the ids is read, a part at a time.

    Args:
        choose: all ids in their order -> the places of those to read, ascending.
    """
    places = choose(chain.from_iterable(read_column(path, "id")))
    return list(_rows(read_table(path, _COLUMNS, optional=_OPTIONAL, rows=places)))


def contents(rows: Iterable[Row]) -> str:
    """16 hex digits of what some images show, under which ids: the same wherever they lie and whatever their shards."""
    return json_hash([[row.id, row.bytes, row.crc32c, row.view] for row in rows])


def read_shard(path: str | Path, shard: str) -> list[Row]:
    """Rows of one shard, sorted by id; raises StoreError as `read_manifest`, or where there is no such shard."""
    return read_manifest(path, shard).of(shard)


def has_windows(path: str | Path) -> bool:
    """Whether any image is a window or a page of another; only the header is read."""
    import pyarrow.parquet as pq

    return "parent" in pq.read_schema(path).names


def read_shards(path: str | Path) -> list[str]:
    """Only the shard names, in order of first appearance: what planning needs, whatever the number of images."""
    return read_table(path, ["shard"])["shard"].unique().to_pylist()

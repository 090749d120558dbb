"""What a job of one shard leaves for the job that joins the shards: entries, files of images, counts.

A part is a folder. `entries` has the entries of every image, in the order of the images and, for each, of the names
that `part.json` lists: a line with the number of bytes of its text and the number of its file with the CRC32C of that,
or `-`; then the text.
The files lie in `files/`, a thousand in a folder; a mask's PNG that several formats take is there once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from maskmill.errors import StoreError
from maskmill.export._clusters import Clusters
from maskmill.export._layout import place_photo
from maskmill.export.formats import Entry
from maskmill.store import expected
from maskmill.store.artefact import read_json, read_tensors, write_json, write_tensors
from maskmill.store.manifest import Row
from maskmill.store.provenance import Provenance
from maskmill.store.seal import bytes_crc32c, file_crc32c

Entries = Mapping[str, Entry]


class PartWriter:
    """Writes the part of one shard; `photos`: how photos are placed, or `none`."""

    def __init__(self, folder: Path, names: Sequence[str], photos: str) -> None:
        self.folder, self.names, self.photos = folder, list(names), photos
        self._files = self._images = 0

    def __enter__(self) -> PartWriter:
        self._stream: BinaryIO = (self.folder / "entries").open("xb")
        return self

    def __exit__(self, *error: object) -> None:
        self._stream.close()

    def add(self, row: Row, entries: Entries) -> None:
        """The entries of one image."""
        written: dict[int, str] = {}  # of bytes that several formats share
        for name in self.names:
            entry, number = entries[name], "-"
            if isinstance(entry.body, bytes) and entry.body:
                if id(entry.body) not in written:
                    written[id(entry.body)] = self._file(entry.body)
                number = written[id(entry.body)]
            text = entry.text.encode()
            self._stream.write(f"{len(text)} {number}\n".encode() + text)
        if self.photos != "none":
            place_photo(row, _photo(self.folder, self._images), self.photos)
        self._images += 1

    def _file(self, body: bytes) -> str:
        path = _file(self.folder, self._files)
        if self._files % 1000 == 0:
            path.parent.mkdir(parents=True)
        path.write_bytes(body)
        self._files += 1
        return f"{self._files - 1}:{bytes_crc32c(body)}"

    def finish(self, table: Clusters, facts: Mapping[str, Any], made: Provenance) -> None:
        """What is known after the last image."""
        self._stream.close()
        counts, arrays = table.parts()
        body = {"names": self.names, "counts": counts, "entries": file_crc32c(self.folder / "entries"), **facts}
        write_tensors(self.folder / "counts.safetensors", arrays, made)
        write_json(self.folder / "part.json", body, made)


class Part:
    """Reads what `PartWriter` wrote; a part that is damaged or of other settings is a StoreError."""

    def __init__(self, folder: Path, names: Sequence[str], photos: str) -> None:
        self.folder, self.photos = folder, photos
        self.body = read_json(folder / "part.json")
        expected.check(folder, self.body["provenance"])
        self.arrays, made = read_tensors(folder / "counts.safetensors")
        together = self.body["names"] == list(names) and made.get("hash") == self.body["provenance"]["hash"]
        if not together or not _is(folder / "entries", self.body["entries"]):
            raise StoreError(f"{folder}: damaged, or of another export; delete it and run snakemake again")

    def __iter__(self) -> Iterator[Entries]:
        """The entries of every image."""
        number, names = 0, self.body["names"]
        with (self.folder / "entries").open("rb") as stream:
            while line := stream.readline():
                checked: dict[bytes, Path] = {}
                photo = _photo(self.folder, number) if self.photos != "none" else None
                found: dict[str, Entry] = {}
                for i, name in enumerate(names):
                    size, file = (line if not i else stream.readline()).split()
                    text = stream.read(int(size)).decode()
                    if file != b"-" and file not in checked:
                        checked[file] = self._checked(*file.decode().partition(":")[::2])
                    found[name] = Entry(text, checked.get(file, b""), photo)
                yield found
                number += 1

    def _checked(self, number: str, checksum: str) -> Path:
        """A file of an image, as it was written: it becomes part of the export without being read again."""
        path = _file(self.folder, int(number))
        if not _is(path, int(checksum or -1)):  # parts of older versions have none
            raise StoreError(f"{path}: damaged or gone; delete {self.folder} and run snakemake again")
        return path


def _is(path: Path, checksum: int) -> bool:
    """Whether a file is there and has this CRC32C."""
    try:
        return file_crc32c(path) == checksum
    except FileNotFoundError:
        return False


def _file(folder: Path, number: int) -> Path:
    return folder / f"files/{number // 1000:04d}/{number % 1000:03d}"


def _photo(folder: Path, number: int) -> Path:
    return folder / f"photos/{number // 1000:04d}/{number % 1000:03d}"

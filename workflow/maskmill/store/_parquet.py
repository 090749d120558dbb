"""Checksums of a Parquet file that Parquet itself does not have, between its last data and its footer.

Parquet has a checksum a page at most. Damage in the footer (names, types, statistics, where the columns lie) is
believed, or raises whatever it happens to. The trailer that is inserted here holds a CRC32C of the footer and of every
column chunk. Places in a footer count from the start of the file, so other programs read the file as before.

    PAR1  column chunks  | a CRC32C a chunk, their number, CRC32C of the footer, CRC32C of these, magic |  footer  PAR1
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

MAGIC = b"mmcrc32c"
_END = struct.Struct("<III8s")  # number of chunks, CRC32C of the footer, CRC32C of the trailer up to here, magic
_TAIL = struct.Struct("<I4s")  # of a Parquet file: length of the footer, PAR1
_BLOCK = 16 << 20  # bytes read at once


def add_trailer(path: Path) -> None:
    """Insert the trailer into a Parquet file that has none."""
    import google_crc32c
    import pyarrow.parquet as pq

    places = list(_chunks(pq.read_metadata(path)))
    with path.open("r+b") as file:
        start, footer = _footer(file)
        crcs = struct.pack(f"<{len(places)}I", *(_crc(file, *place) for place in places))
        head = crcs + struct.pack("<II", len(places), google_crc32c.value(footer))
        file.seek(start)
        file.write(head + struct.pack("<I8s", google_crc32c.value(head), MAGIC) + footer)


class Trailer:
    """The checksums of a Parquet file, whose footer has been compared with its own.

    Raises:
        ValueError: there is no trailer, or it or the footer is damaged.
    """

    def __init__(self, file: BinaryIO) -> None:
        import google_crc32c

        self._file = file
        start, footer = _footer(file)
        end = _read(file, start - _END.size, _END.size)
        if len(end) != _END.size or not end.endswith(MAGIC):
            raise ValueError("no checksums: made by an older maskmill or by another program, or damaged")
        count, crc_footer, crc_trailer, _ = _END.unpack(end)
        crcs = _read(file, start - _END.size - 4 * count, 4 * count)
        if len(crcs) != 4 * count or google_crc32c.value(crcs + end[:8]) != crc_trailer:
            raise ValueError("its checksums are damaged")
        if google_crc32c.value(footer) != crc_footer:
            raise ValueError("the checksum of its footer does not fit")
        self._crcs: Sequence[int] = struct.unpack(f"<{count}I", crcs)

    def check(self, metadata: Any, columns: Sequence[str] | None, groups: Sequence[int]) -> None:
        """Compare the column chunks of some columns (None: all) in some groups of rows with their checksums.

        Raises:
            ValueError: one does not fit; names the column.
        """
        wide = metadata.num_columns
        for group in groups:
            for i, place in enumerate(_chunks_of(metadata.row_group(group))):
                name = metadata.row_group(group).column(i).path_in_schema.split(".")[0]
                if columns is not None and name not in columns:
                    continue
                if _crc(self._file, *place) != self._crcs[group * wide + i]:
                    raise ValueError(f"the checksum of its column {name!r} does not fit")


def _chunks(metadata: Any) -> Iterator[tuple[int, int]]:
    """(first byte, bytes) of every column chunk, row group after row group."""
    for group in range(metadata.num_row_groups):
        yield from _chunks_of(metadata.row_group(group))


def _chunks_of(group: Any) -> Iterator[tuple[int, int]]:
    for i in range(group.num_columns):
        chunk = group.column(i)
        starts = [chunk.data_page_offset] + ([chunk.dictionary_page_offset] if chunk.has_dictionary_page else [])
        yield min(starts), chunk.total_compressed_size


def _footer(file: BinaryIO) -> tuple[int, bytes]:
    """Where the footer starts, and its bytes to the end of the file."""
    size = os.fstat(file.fileno()).st_size
    tail = _read(file, size - _TAIL.size, _TAIL.size)
    length, magic = _TAIL.unpack(tail) if len(tail) == _TAIL.size else (0, b"")
    start = size - _TAIL.size - length
    if magic != b"PAR1" or start < _TAIL.size:
        raise ValueError("truncated, or not Parquet")
    return start, _read(file, start, size - start)


def _read(file: BinaryIO, start: int, count: int) -> bytes:
    return os.pread(file.fileno(), count, start) if start >= 0 else b""


def _crc(file: BinaryIO, start: int, count: int) -> int:
    """CRC32C of a part of the file, read in blocks."""
    import google_crc32c

    total, end = 0, start + count
    while start < end and (block := _read(file, start, min(_BLOCK, end - start))):
        total, start = google_crc32c.extend(total, block), start + len(block)
    return int(total)

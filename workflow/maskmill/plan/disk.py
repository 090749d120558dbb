"""Bytes of the ragged store (docs/store.md), by construction: chunks have one size and are not compressed."""

from __future__ import annotations

from maskmill.store.product import LETTERS
from maskmill.store.ragged import CHUNK_BYTES, SHARD_BYTES

CRC = 4  # bytes after every chunk and after every index
INDEX = 16  # bytes a chunk in the index of a Zarr shard


def value_bytes(rows: int, depth: int, itemsize: int, read: int | None = None) -> int:
    """Bytes of the files of `values` of one store of `rows` vectors [depth]; the last chunk is padded with zeros.

    Args:
        read: bytes that a row of a chunk counts as, where it is larger for its reader.
    """
    row = depth * itemsize
    chunk = max(1, CHUNK_BYTES // (read or row))  # rows
    per_shard = max(1, SHARD_BYTES // (chunk * row))  # chunks
    chunks = -(-rows // chunk)
    shards = -(-chunks // per_shard)
    return chunks * (chunk * row + CRC) + shards * (per_shard * INDEX + CRC)


def feature_bytes(rows: int, images: int, depth: int, dtype: str, vectors: int, code: int = 0) -> int:
    """Bytes of a feature store: values, scales of int8, the codec of pq, and for each image `vectors` of [depth] and 40
    bytes of places; `code` are the bytes of a token of pq.

    What is not in `values` is taken before its compression; zstd leaves floats as long as they are.
    """
    quantised = dtype == "int8"
    scales = 4 * rows if quantised else 0
    per_image = vectors * depth * (4 if quantised else 2) + 40
    if code:
        return value_bytes(rows, code, 1, 2 * depth) + 4 * depth * (depth + LETTERS) + images * per_image
    return value_bytes(rows, depth, 1 if quantised else 2) + scales + images * per_image

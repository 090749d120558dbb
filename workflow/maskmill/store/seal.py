"""Checksums that cover what the file formats leave open: JSON values, and the arrays of a Zarr group.

Zarr checks the CRC32C of a chunk when it decodes it, and nothing else: it reads an absent chunk as zeros, believes its
metadata, and takes any chunk that is whole. A `seal` of an array binds what that leaves open. It is a digest of its
`zarr.json`, of the name and size of each chunk file, and of the CRC32C of every chunk, which stand in the files behind
each chunk. So a few hundred bytes are read for 64 MB of values, and the values themselves are checked as they are read.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

METADATA = "zarr.json"
CHECKSUM = "checksum"  # key of the digest over the rest of a JSON object
_BLOCK = 16 << 20  # bytes read at once
_CRC = 4  # bytes of a CRC32C, behind what it checks
_ABSENT = np.iinfo(np.uint64).max  # offset of an inner chunk that a Zarr shard does not hold

Seal = dict[str, Any]  # {"digest": hex, "files": {name of a chunk file: bytes}}


def json_digest(value: Any) -> str:
    """32 hex digits of BLAKE2b over the canonical JSON of a value that was read from JSON.

    NaN and infinities are allowed.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def with_checksum(body: Mapping[str, Any]) -> dict[str, Any]:
    """The object as it is when it has been written and read back, with its digest as the last key."""
    rest = json.loads(json.dumps({key: value for key, value in body.items() if key != CHECKSUM}))
    return rest | {CHECKSUM: json_digest(rest)}


def fits_checksum(body: Mapping[str, Any]) -> bool:
    """Whether an object that was read has the digest that `with_checksum` gave it."""
    return body.get(CHECKSUM) == json_digest({key: value for key, value in body.items() if key != CHECKSUM})


def file_crc32c(path: str | Path) -> int:
    """CRC32C of a file's bytes, read in blocks."""
    import google_crc32c

    total = 0
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            total = int(google_crc32c.extend(total, block))
    return total


def bytes_crc32c(body: bytes | memoryview) -> int:
    """CRC32C of some bytes."""
    import google_crc32c

    if isinstance(body, bytes):
        return int(google_crc32c.value(body))
    total = 0
    for start in range(0, len(body), _BLOCK):  # the library takes nothing but bytes: one copy of a piece at a time
        total = int(google_crc32c.extend(total, bytes(body[start : start + _BLOCK])))
    return total


def seal_array(folder: Path) -> Seal:
    """The seal of the Zarr array in a folder, as its files are now.

    Raises:
        OSError: a file is missing or can not be read. ValueError: a file is too short, or no Zarr metadata.
    """
    metadata = (folder / METADATA).read_bytes()
    files = {name: os.path.getsize(folder / name) for name in sorted(_chunk_files(folder))}
    return {"digest": _digest(folder, metadata, files), "files": files}


def check_array(folder: Path, seal: Seal) -> None:
    """Raise ValueError, which says what is wrong, where the array in a folder is not the one of its seal.

    Files beside those of the seal are left alone: Zarr looks only for the chunks that the metadata asks for.
    """
    try:
        metadata = (folder / METADATA).read_bytes()
        for name, size in seal["files"].items():
            if (found := os.path.getsize(folder / name)) != size:
                raise ValueError(f"{folder.name}/{name} has {found} of {size} bytes")
        same = _digest(folder, metadata, seal["files"]) == seal["digest"]
    except OSError as error:
        raise ValueError(f"{folder.name}/{_name_of(error, folder)}: {error.strerror or error}") from None
    if not same:
        raise ValueError(f"array {folder.name} is not the one that was written")


def _name_of(error: OSError, folder: Path) -> str:
    return os.path.relpath(error.filename, folder) if error.filename else METADATA


def _chunk_files(folder: Path) -> Iterator[str]:
    for place, _, names in os.walk(folder / "c"):
        yield from (os.path.relpath(os.path.join(place, name), folder) for name in names)


def _digest(folder: Path, metadata: bytes, files: Mapping[str, int]) -> str:
    """Digest of the metadata and, for every chunk file, of its name, size and CRC32Cs."""
    total = hashlib.blake2b(metadata, digest_size=16)
    inner = _inner_chunks(metadata)
    for name in sorted(files):
        total.update(f"\0{name}\0{files[name]}\0".encode())
        with open(folder / name, "rb", buffering=0) as file:
            for part in _trailers(file.fileno(), files[name], inner):
                total.update(part)
    return total.hexdigest()


def _inner_chunks(metadata: bytes) -> int:
    """How many chunks one Zarr shard of the array has; 0 where each file is one chunk."""
    try:
        body = json.loads(metadata)
        codec = body["codecs"][0]
        if codec["name"] != "sharding_indexed":
            return 0
        outer = body["chunk_grid"]["configuration"]["chunk_shape"]
        inner = codec["configuration"]["chunk_shape"]
        return math.prod(-(-a // b) for a, b in zip(outer, inner, strict=True))
    except (ValueError, KeyError, IndexError, TypeError, ZeroDivisionError):
        raise ValueError("the metadata of an array is damaged") from None


def _trailers(file: int, size: int, inner: int) -> Iterator[bytes]:
    """The CRC32C of a chunk file; of a Zarr shard, its index and the CRC32C of each of its chunks."""
    if not inner:
        yield os.pread(file, _CRC, max(0, size - _CRC))
        return
    length = 16 * inner + _CRC
    index = os.pread(file, length, max(0, size - length))  # (offset, bytes) of each inner chunk, and a CRC32C
    yield index
    if len(index) != length:
        return
    for offset, count in np.frombuffer(index[:-_CRC], "<u8").reshape(-1, 2):
        if offset != _ABSENT and count >= _CRC and int(offset) + int(count) <= size:
            yield os.pread(file, _CRC, int(offset) + int(count) - _CRC)


@contextmanager
def system_errors() -> Iterator[None]:
    """Within: an error of the operating system that safetensors wraps in its own becomes an OSError again."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        code = int(number[1]) or errno.EIO
        raise OSError(code, os.strerror(code)) from error

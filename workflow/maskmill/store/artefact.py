"""Writing and reading artefacts: complete or absent, and each with the hash of what made it.

Every writer here writes to a temporary name beside the target and renames it when complete, so that a
killed job leaves no half-written artefact under its final name.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from maskmill import __version__
from maskmill.errors import StoreError, UserError
from maskmill.versions import STAGE_VERSION


@dataclass(frozen=True)
class Provenance:
    """What made an artefact: stage, its code version, its parameters, the hashes of its inputs."""

    stage: str
    params: Mapping[str, Any]
    inputs: Sequence[str] = ()
    version: int = 0
    maskmill: str = __version__
    hash: str = field(default="")

    @classmethod
    def of(cls, stage: str, params: Mapping[str, Any], inputs: Sequence[str] = ()) -> Provenance:
        """Provenance with its hash filled in; `inputs` are the hashes of the artefacts that were read."""
        version = STAGE_VERSION[stage]
        digest = json_hash([stage, version, params, list(inputs)])
        return cls(stage, dict(params), tuple(inputs), version, __version__, digest)

    def as_dict(self) -> dict[str, Any]:
        """A JSON-ready dictionary."""
        return json.loads(json.dumps(asdict(self)))


def json_hash(value: Any) -> str:
    """16 hex digits of BLAKE2b over the canonical JSON of `value`."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


@contextlib.contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """A temporary path (file or folder, the body makes it) that becomes `path` when the body succeeds.

    Files and folders may be read by whom the umask allows, whatever their writer thinks (maskmill.access). A full disk
    or too long a name becomes a UserError that names the target and the way out.
    """
    path = Path(path)
    temporary = path.with_name(f".{_short(path.name)}.tmp-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove(temporary)
        yield temporary
        if temporary.is_dir():
            remove(path)
        else:
            temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise UserError(f"{path}: the name is too long for the file system; shorten it") from None
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        free = shutil.disk_usage(path.parent).free / 2**30
        raise UserError(
            f"{path}: the disk is full ({free:.1f} GiB free); free some space and run the same command again, "
            "finished results are kept"
        ) from error
    finally:
        with contextlib.suppress(OSError):  # a folder that could not be made; what the body raised matters
            remove(temporary)


def _short(name: str) -> str:
    """A name that leaves room for what is put around it: file systems end at 255 bytes."""
    return name if len(os.fsencode(name)) <= 200 else json_hash(name)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def remove(path: Path) -> None:
    """Delete a file or a folder tree; absent is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_json(path: str | Path, value: Mapping[str, Any], provenance: Provenance | None = None) -> None:
    """Write a JSON object; the provenance goes under the key `provenance`."""
    body = dict(value) | ({"provenance": provenance.as_dict()} if provenance else {})
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(body, indent=1) + "\n")


def read_json(path: str | Path) -> dict[str, Any]:
    """Read a JSON object; a truncated file is a StoreError."""
    try:
        value = json.loads(Path(path).read_text())
    except FileNotFoundError:
        raise StoreError(f"{path}: no such file; run snakemake to make it") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise StoreError(f"{path}: not valid JSON ({error}); delete it and run snakemake again") from None
    if not isinstance(value, dict):
        raise StoreError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def write_table(
    path: str | Path, table: Any, provenance: Provenance | None = None, row_group: int | None = None
) -> None:
    """Write a `pyarrow.Table` as Parquet, in groups of `row_group` rows; the provenance goes into its metadata."""
    import pyarrow.parquet as pq

    if provenance:
        metadata = dict(table.schema.metadata or {}) | {b"maskmill": json.dumps(provenance.as_dict()).encode()}
        table = table.replace_schema_metadata(metadata)
    with atomic(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", write_page_checksum=True, row_group_size=row_group)


def read_table(path: str | Path, columns: Sequence[str] | None = None, where: tuple[str, str] | None = None) -> Any:
    """Read a Parquet file as `pyarrow.Table`; a truncated, damaged or foreign file is a StoreError.

    Args:
        where: (column, value): only these rows; of groups of rows that have none, no other column is read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not Path(path).is_file():
        raise StoreError(f"{path}: no such table; run snakemake to make it")
    try:
        # Not pq.read_table: that is a dataset of one file, and imports pandas for it.
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            wanted = list(columns) if columns else None
            if where is None:
                return file.read(columns=wanted)
            column, value = where
            groups = [
                i
                for i in range(file.num_row_groups)
                if _may_have(file.metadata.row_group(i), column, value)
                and value in file.read_row_group(i, columns=[column])[column].unique().to_pylist()
            ]
            return _rows_of(file.read_row_groups(groups, columns=wanted), *where)
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise StoreError(
            f"{path}: not a readable Parquet table ({reason}); delete it and run snakemake again"
        ) from None


def _may_have(group: Any, column: str, value: str) -> bool:
    """False where the statistics of a Parquet row group say that no row of it has the value."""
    for i in range(group.num_columns):
        part = group.column(i)
        if part.path_in_schema == column and part.statistics is not None and part.statistics.has_min_max:
            return bool(part.statistics.min <= value <= part.statistics.max)
    return True


def _rows_of(table: Any, column: str, value: str) -> Any:
    """The rows with the value. A scalar of pyarrow would import pandas; where the rows lie together none is needed."""
    values = table[column].to_pylist()
    count = values.count(value)
    first = values.index(value) if count else 0
    if set(values[first : first + count]) <= {value}:
        return table.slice(first, count)
    import pyarrow.compute

    return table.filter(pyarrow.compute.equal(table[column], value))


def write_tensors(path: str | Path, tensors: Mapping[str, np.ndarray], provenance: Provenance | None = None) -> None:
    """Write named NumPy arrays as safetensors; the provenance and a checksum go into the file's metadata."""
    from safetensors.numpy import save_file

    with atomic(path) as temporary:
        arrays = {k: np.ascontiguousarray(v).reshape(np.shape(v)) for k, v in tensors.items()}  # keeps scalars scalar
        body = (provenance.as_dict() if provenance else {}) | {"blake2b": _tensors_hash(arrays)}
        save_file(arrays, str(temporary), metadata={"maskmill": json.dumps(body)})  # one key: several have no order


def _tensors_hash(tensors: Mapping[str, np.ndarray]) -> str:
    """Hash of names, types, shapes and bytes: safetensors has no checksum of its own."""
    total = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        value = np.ascontiguousarray(tensors[name])
        total.update(f"{name}\0{value.dtype.str}\0{tensors[name].shape}\0".encode())
        total.update(value.reshape(-1).view(np.uint8).data)
    return total.hexdigest()


def read_tensors(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Named NumPy arrays of a safetensors file and its provenance (empty if it has none).

    A truncated, damaged or foreign file is a StoreError; a file without our checksum is read as it is.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="numpy") as file:
            provenance: dict[str, Any] = json.loads((file.metadata() or {}).get("maskmill", "{}"))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise StoreError(f"{path}: no such file; run snakemake to make it") from None
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise StoreError(f"{path}: not a readable safetensors file ({error}); delete it and run again") from None
    checksum = provenance.pop("blake2b", None)
    if checksum is not None and checksum != _tensors_hash(tensors):
        raise StoreError(f"{path}: damaged (its checksum does not fit its content); delete it and run snakemake again")
    return tensors, provenance

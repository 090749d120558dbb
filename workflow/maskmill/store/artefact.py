"""Reading and writing artefacts of one file: JSON, Parquet and safetensors, each with what made it.

Every writer writes to a temporary name and renames (`maskmill.store.atomic`); every reader says plainly what is wrong
with a truncated, damaged or foreign file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from maskmill.errors import StoreError
from maskmill.store import expected
from maskmill.store.atomic import atomic
from maskmill.store.provenance import Provenance


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
    expected.check(path, value.get("provenance") or {})
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
            expected.check(path, json.loads((file.metadata.metadata or {}).get(b"maskmill", b"{}")))
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
    expected.check(path, provenance)
    return tensors, provenance

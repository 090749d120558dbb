"""Reading and writing artefacts of one file: JSON, Parquet and safetensors, each with what made it and checksums.

Every writer writes to a temporary name and renames (`maskmill.store.atomic`); every reader says plainly what is wrong
with a truncated, damaged or foreign file. Each byte that a reader uses is covered by a checksum that the writer left.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from maskmill.errors import StoreError
from maskmill.store import expected
from maskmill.store._parquet import Trailer, add_trailer
from maskmill.store.atomic import atomic
from maskmill.store.provenance import Provenance
from maskmill.store.seal import CHECKSUM, fits_checksum, json_digest, system_errors, with_checksum

AGAIN = "delete it and run snakemake again (in a copied folder: copy it again)"
OLDER = "has no checksum: made by an older maskmill or by another program"


def write_json(path: str | Path, value: Mapping[str, Any], provenance: Provenance | None = None) -> None:
    """Write a JSON object. With a provenance, given or in it, it is an artefact for `read_json` and has a `checksum`.
    Without one it is a plain file for other programs.
    """
    body = dict(value) | ({"provenance": provenance.as_dict()} if provenance else {})
    if "provenance" in body:
        body = with_checksum(body)
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(body, indent=1) + "\n")


def read_json(path: str | Path) -> dict[str, Any]:
    """Read a JSON object of `write_json` with a provenance; any other or a damaged file is a StoreError."""
    try:
        value = json.loads(Path(path).read_bytes())
    except FileNotFoundError:
        raise StoreError(f"{path}: no such file; run snakemake to make it") from None
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, a number of thousands of digits
        raise StoreError(f"{path}: not valid JSON ({error}); {AGAIN}") from None
    if not isinstance(value, dict):
        raise StoreError(f"{path}: expected a JSON object, found {type(value).__name__}; {AGAIN}")
    if CHECKSUM not in value:
        raise StoreError(f"{path}: {OLDER}; {AGAIN}")
    if not fits_checksum(value):
        raise StoreError(f"{path}: damaged (its checksum does not fit its content); {AGAIN}")
    del value[CHECKSUM]
    expected.check(path, value.get("provenance") or {})
    return value


def write_table(
    path: str | Path, table: Any, provenance: Provenance | None = None, row_group: int | None = None
) -> None:
    """Write a `pyarrow.Table` as Parquet, in groups of `row_group` rows; the provenance goes into its metadata.

    Between data and footer come checksums for `read_table`; other programs read the file as any Parquet.
    """
    import pyarrow.parquet as pq

    if provenance:
        metadata = dict(table.schema.metadata or {}) | {b"maskmill": json.dumps(provenance.as_dict()).encode()}
        table = table.replace_schema_metadata(metadata)
    with atomic(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", write_page_checksum=True, row_group_size=row_group)
        add_trailer(temporary)


def read_table(
    path: str | Path,
    columns: Sequence[str] | None = None,
    where: tuple[str, str] | None = None,
    optional: Sequence[str] = (),
    rows: Sequence[int] | None = None,
) -> Any:
    """Read a table of `write_table` as `pyarrow.Table`; a truncated, damaged or foreign file is a StoreError.

    The footer is always compared with its checksum, data only where it is read.

    Args:
        where: (column, value): only these rows; of groups of rows that have none, no other column is read.
        optional: columns that are read too, where the table has them.
        rows: only the rows at these places, which ascend; groups of rows that have none are not read.
    """
    with _opened(path) as (file, trailer):
        wanted = _wanted(path, file.schema_arrow.names, columns, optional)
        if rows is not None:
            return _taken(file, trailer, wanted, rows)
        groups: Sequence[int] = range(file.num_row_groups)
        if where is not None:
            groups = _groups_with(file, trailer, *where)
        trailer.check(file.metadata, wanted, groups)
        table = file.read_row_groups(list(groups), columns=wanted)
        return table if where is None else _rows_of(table, *where)


def read_column(path: str | Path, column: str) -> Iterator[list[Any]]:
    """The values of a column of `write_table`, a group of rows at a time; raises as `read_table`, in its turn."""
    with _opened(path) as (file, trailer):
        wanted = _wanted(path, file.schema_arrow.names, [column], ())
        for i in range(file.num_row_groups):
            trailer.check(file.metadata, wanted, [i])
            yield file.read_row_group(i, columns=wanted)[column].to_pylist()


@contextmanager
def _opened(path: str | Path) -> Iterator[tuple[Any, Trailer]]:
    """A table that is the one expected, and its checksums; whatever is wrong with it in the block is a StoreError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not Path(path).is_file():
        raise StoreError(f"{path}: no such table; run snakemake to make it")
    try:
        # Not pq.read_table: that is a dataset of one file, and imports pandas for it.
        with open(path, "rb") as raw:
            trailer = Trailer(raw)
            with pq.ParquetFile(path) as file:
                expected.check(path, json.loads((file.metadata.metadata or {}).get(b"maskmill", b"{}")))
                yield file, trailer
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise StoreError(f"{path}: not a readable Parquet table ({reason}); {AGAIN}") from None


def count_rows(path: str | Path) -> int:
    """Rows of a table of `write_table`; only its footer is read, and checked as by `read_table`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with open(path, "rb") as raw:
            Trailer(raw)
            return int(pq.read_metadata(path).num_rows)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise StoreError(f"{path}: not a readable Parquet table ({' '.join(str(error).split())}); {AGAIN}") from None


def read_metadata(path: str | Path) -> dict[bytes, bytes]:
    """The metadata of a table of `write_table`; only its footer is read, and checked as by `read_table`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with open(path, "rb") as raw:
            Trailer(raw)
            return dict(pq.read_metadata(path).metadata or {})
    except (pa.ArrowException, OSError, ValueError) as error:
        raise StoreError(f"{path}: not a readable Parquet table ({' '.join(str(error).split())}); {AGAIN}") from None


def _wanted(
    path: str | Path, names: Sequence[str], columns: Sequence[str] | None, optional: Sequence[str]
) -> list[str] | None:
    """The columns to read, None for all; a column that the table lacks is a StoreError."""
    if columns is None:
        return None
    for name in columns:
        if name not in names:
            raise StoreError(f"{path}: has no column {name!r}, so it is another table than expected; {AGAIN}")
    return [*columns, *(name for name in optional if name in names)]


def _groups_with(file: Any, trailer: Trailer, column: str, value: str) -> list[int]:
    """The groups of rows that have the value in a column."""
    found = []
    for i in range(file.num_row_groups):
        if _may_have(file.metadata.row_group(i), column, value):
            trailer.check(file.metadata, [column], [i])
            if value in file.read_row_group(i, columns=[column])[column].unique().to_pylist():
                found.append(i)
    return found


def _taken(file: Any, trailer: Trailer, columns: list[str] | None, rows: Sequence[int]) -> Any:
    """The rows at some places, ascending; one group of rows at a time is in memory."""
    import pyarrow as pa

    parts = [file.read_row_groups([], columns=columns)]
    start = 0
    for i in range(file.num_row_groups):
        stop = start + file.metadata.row_group(i).num_rows
        if mine := rows[bisect_left(rows, start) : bisect_left(rows, stop)]:
            trailer.check(file.metadata, columns, [i])
            parts.append(file.read_row_group(i, columns=columns).take([row - start for row in mine]))
        start = stop
    return pa.concat_tables(parts)


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

    arrays = {k: np.ascontiguousarray(v).reshape(np.shape(v)) for k, v in tensors.items()}  # keeps scalars scalar
    about: dict[str, Any] = provenance.as_dict() if provenance else {}
    body = about | {CHECKSUM: _tensors_hash(arrays, about)}
    with atomic(path) as temporary, system_errors():
        save_file(arrays, str(temporary), metadata={"maskmill": json.dumps(body)})  # one key: several have no order


def _tensors_hash(tensors: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> str:
    """Hash of names, types, shapes and bytes, and of what the file says of them: safetensors has no checksum."""
    total = hashlib.blake2b(json_digest(about).encode(), digest_size=16)
    for name in sorted(tensors):
        value = np.ascontiguousarray(tensors[name])
        total.update(f"{name}\0{value.dtype.str}\0{tensors[name].shape}\0".encode())
        total.update(value.reshape(-1).view(np.uint8).data)
    return total.hexdigest()


def read_tensors(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Named NumPy arrays of a file of `write_tensors`, and its provenance (empty if it has none).

    A truncated, damaged or foreign file is a StoreError.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="numpy") as file:
            about = json.loads((file.metadata() or {}).get("maskmill", "{}"))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise StoreError(f"{path}: no such file; run snakemake to make it") from None
    except (SafetensorError, OSError, ValueError, TypeError, KeyError) as error:  # TypeError: a type that NumPy lacks
        raise StoreError(f"{path}: not a readable safetensors file ({error}); {AGAIN}") from None
    if not isinstance(about, dict) or CHECKSUM not in about:
        raise StoreError(f"{path}: {OLDER}; {AGAIN}")
    checksum = about.pop(CHECKSUM)
    if checksum != _tensors_hash(tensors, about):
        raise StoreError(f"{path}: damaged (its checksum does not fit its content); {AGAIN}")
    expected.check(path, about)
    return tensors, about


def plain(value: Any) -> Any:
    """Arrays as lists, numbers with seven digits: what JSON takes."""
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, np.ndarray | list | tuple):
        return [plain(part) for part in (value.tolist() if isinstance(value, np.ndarray) else value)]
    return float(f"{value:.7g}") if isinstance(value, float) else value

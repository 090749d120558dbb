"""Tables that name images and labels, as far as planning needs them; the stage `inputs` reads and checks them whole.

Standard library only, and pyarrow for Parquet: the Snakefile looks into such tables when it plans.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from functools import lru_cache, partial
from typing import TextIO

LONGEST_LINE = 1 << 20  # bytes; a file of one line may be endless
TABLE_SUFFIXES = (".csv", ".tsv", ".parquet")


def is_table(source: str) -> bool:
    """True when `source` is a file whose name is that of a table."""
    return source.lower().endswith(TABLE_SUFFIXES) and os.path.isfile(source)


def cells(table: str, column: str) -> Iterator[str]:
    """The cells of a column that are not empty, from the first row on; none where there is no such column.

    Raises:
        OSError: the table cannot be read. ValueError: it is damaged.
    """
    if table.lower().endswith(".parquet"):
        import pyarrow.parquet as pq

        file = pq.ParquetFile(table)
        if column not in file.schema_arrow.names:
            return
        for batch in file.iter_batches(columns=[column]):
            yield from (str(value) for value in batch.column(0).to_pylist() if value is not None and value != "")
        return
    with open(table, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        try:
            rows = _rows(file, table)
            header = next(rows, [])
            if column not in header:
                return
            place = header.index(column)
            yield from (row[place] for row in rows if len(row) > place and row[place])
        except csv.Error as error:
            raise ValueError(str(error)) from None


def check_lines(table: str | os.PathLike[str]) -> None:
    """Raises ValueError where the first line of a CSV or TSV has no end: such a file may not fit into memory."""
    with open(table, "rb") as file:
        if len(file.readline(LONGEST_LINE)) == LONGEST_LINE:
            raise ValueError(f"its first line has more than {LONGEST_LINE} bytes")


def has_column(table: str, column: str) -> bool:
    """True when a table has a column; a table that cannot be read has none (`inputs` says why)."""
    try:
        if table.lower().endswith(".parquet"):
            import pyarrow.parquet as pq

            return column in pq.ParquetFile(table).schema_arrow.names
        with open(table, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            return column in next(_rows(file, table), [])
    except (OSError, ValueError, csv.Error):
        return False


def _rows(file: TextIO, table: str) -> Iterator[list[str]]:
    """The rows of an open CSV or TSV; a line without an end is read in pieces."""
    return csv.reader(iter(partial(file.readline, LONGEST_LINE), ""), delimiter=separator(table))


def separator(table: str | os.PathLike[str]) -> str:
    """What stands between the cells of a CSV or TSV, by its suffix."""
    return "\t" if os.fspath(table).lower().endswith(".tsv") else ","


def named_files(table: str) -> Iterator[str]:
    """The files that the columns `path` and `label` name, relative to the table's folder unless absolute."""
    folder = os.path.dirname(os.path.realpath(table))
    for column in ("path", "label"):
        for cell in cells(table, column):
            yield os.path.join(folder, cell)


def has_labels(table: str) -> bool:
    """True when a table has a label for any image; a table that cannot be read has none (`inputs` says why)."""
    try:
        return _has_labels(table, os.stat(table).st_mtime_ns)
    except (OSError, ValueError):
        return False


@lru_cache
def _has_labels(table: str, mtime_ns: int) -> bool:
    return next(cells(table, "label"), None) is not None

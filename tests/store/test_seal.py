"""What the checksums of artefacts cover: every array, attribute, column and byte of metadata that a reader uses."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
import zarr
from safetensors import SafetensorError

from maskmill.errors import StoreError, UserError
from maskmill.store import ragged as layout
from maskmill.store.artefact import (
    count_rows,
    read_json,
    read_table,
    read_tensors,
    write_json,
    write_table,
    write_tensors,
)
from maskmill.store.provenance import Provenance
from maskmill.store.ragged import Ragged, RaggedWriter
from maskmill.store.seal import METADATA

MADE = Provenance.of("cut", {"tau": 0.2})
ARRAYS = ("values", "scale", "offsets", "grid", "cls", "confidence")


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several files of several chunks each, whatever the size of a store."""
    monkeypatch.setattr(layout, "CHUNK_BYTES", 256)
    monkeypatch.setattr(layout, "SHARD_BYTES", 1024)


def store(path: Path, seed: int = 0) -> Path:
    """A store of int8 vectors with two fields an image."""
    rng = np.random.default_rng(seed)
    with RaggedWriter(path, "features", depth=8, dtype="int8", attrs={"bound": math.nan}, provenance=MADE) as out:
        for i in range(6):
            tokens = rng.standard_normal((6, 7, 8))
            out.append(f"im{i}", tokens, cls=rng.standard_normal(8), confidence=np.float32(rng.random()))
    return path


def everything(path: Path) -> list[Any]:
    """All that a reader can get."""
    found = Ragged(path, "features")
    fields = [found.per_image(name) for name in found.per_image_names]
    return [
        found.ids,
        found.attrs,
        found.provenance,
        found.grid,
        found.offsets,
        *fields,
        *dict(found.images()).values(),
    ]


def same(one: list[Any], two: list[Any]) -> bool:
    """Equal values; NaN equals NaN."""
    return all(
        repr(a) == repr(b) if isinstance(a, dict) else np.array_equal(a, b) for a, b in zip(one, two, strict=True)
    )


def chunks(path: Path, array: str) -> list[Path]:
    return sorted(file for file in (path / array / "c").rglob("*") if file.is_file())


def flip(file: Path, place: int, bit: int = 1) -> None:
    body = bytearray(file.read_bytes())
    body[place] ^= bit
    file.write_bytes(body)


def outcome(read: Callable[[], Any]) -> tuple[str, Any]:
    """What a reader refuses with, or what it gives."""
    try:
        return "", read()
    except StoreError as error:
        return str(error), None


@pytest.mark.parametrize("array", ARRAYS)
def test_a_chunk_that_is_gone_is_never_read_as_zeros(tmp_path: Path, array: str) -> None:
    path = store(tmp_path / "a.zarr")
    chunks(path, array)[-1].unlink()
    with pytest.raises(StoreError, match=rf"a\.zarr: .*{array}/c/.*No such file.*; delete it"):
        Ragged(path)


@pytest.mark.parametrize("array", ARRAYS)
def test_a_chunk_of_another_store_is_refused(tmp_path: Path, array: str) -> None:
    """Whole, of the same shape, with checksums that fit: only the seal knows that it is another one."""
    path, other = store(tmp_path / "a.zarr"), store(tmp_path / "b.zarr", seed=1)
    for mine, theirs in zip(chunks(path, array), chunks(other, array), strict=True):
        shutil.copyfile(theirs, mine)
    if array in ("offsets", "grid"):  # the same content, so the same bytes
        assert same(everything(path), everything(store(tmp_path / "c.zarr")))
        return
    with pytest.raises(StoreError, match=rf"a\.zarr: .*{array}"):
        Ragged(path)


@pytest.mark.parametrize("array", ARRAYS)
def test_chunks_may_not_change_their_places(tmp_path: Path, array: str) -> None:
    path = store(tmp_path / "a.zarr")
    files = chunks(path, array)
    first, second = files[0].read_bytes(), files[1].read_bytes() if len(files) > 1 else b"x"
    if array != "values":
        assert len(files) == 1
        files[0].write_bytes(first + b"x")
    else:
        files[0].write_bytes(second)
        files[1].write_bytes(first)
    with pytest.raises(StoreError, match=rf"a\.zarr: .*{array}"):
        Ragged(path)


@pytest.mark.parametrize("file", [METADATA, *(f"{array}/{METADATA}" for array in ARRAYS)])
def test_a_flipped_bit_of_metadata_is_found_or_without_effect(tmp_path: Path, file: str) -> None:
    path = store(tmp_path / "a.zarr")
    sound, body = everything(path), (path / file).read_bytes()
    refused, rng = 0, np.random.default_rng(0)
    for place in rng.choice(len(body), 60, replace=False):
        flip(path / file, int(place), int(1 << rng.integers(8)))
        told, found = outcome(lambda: everything(path))
        assert str(path) in told if told else same(found, sound)
        refused += bool(told)
        (path / file).write_bytes(body)
    assert refused > 40


@pytest.mark.parametrize("array", ARRAYS)
def test_a_flipped_bit_of_a_chunk_is_found(tmp_path: Path, array: str) -> None:
    path = store(tmp_path / "a.zarr")
    for file in chunks(path, array):
        body = file.read_bytes()
        for place in np.random.default_rng(0).choice(len(body), min(12, len(body)), replace=False):
            flip(file, int(place))
            with pytest.raises(StoreError, match=rf"a\.zarr: truncated or damaged.*{array}"):
                everything(path)
            file.write_bytes(body)
    everything(path)


@pytest.mark.parametrize("array", ["values", "cls"])
def test_a_file_that_is_deleted_after_opening_is_not_read_as_zeros(tmp_path: Path, array: str) -> None:
    path = store(tmp_path / "a.zarr")
    opened = Ragged(path)
    chunks(path, array)[0].unlink()
    with pytest.raises(StoreError, match=rf"a\.zarr: .*{array}/c/0"):
        opened[0] if array == "values" else opened.per_image("cls")


def test_other_files_in_a_store_are_left_alone(tmp_path: Path) -> None:
    path = store(tmp_path / "a.zarr")
    sound = everything(path)
    (path / ".DS_Store").write_text("x")
    shutil.copytree(path / "cls", path / "other")
    (path / "cls/c/7").mkdir()
    (path / "cls/c/7/0").write_bytes(b"x")
    assert same(everything(path), sound)
    with pytest.raises(StoreError, match="no per-image field 'other'"):
        Ragged(path).per_image("other")


def test_stores_of_older_versions_are_named(tmp_path: Path) -> None:
    path = store(tmp_path / "a.zarr")
    text = (path / METADATA).read_text()
    (path / METADATA).write_text(text.replace("maskmill-ragged-2", "maskmill-ragged-1"))
    with pytest.raises(StoreError, match=r"a\.zarr: written by an older maskmill .*; run snakemake again"):
        Ragged(path)


def test_zarr_and_dask_read_a_store_as_before(tmp_path: Path) -> None:
    path = store(tmp_path / "a.zarr")
    found = Ragged(path)
    group = zarr.open_group(str(path), mode="r")
    raw = np.asarray(group["values"][...])  # type: ignore[index]
    np.testing.assert_array_equal(found.dask().compute(), raw)
    scale = np.asarray(group["scale"][...])  # type: ignore[index]
    np.testing.assert_array_equal(found.rows(0, len(raw)), raw.astype(np.float32) * scale[:, None])


def test_an_empty_store(tmp_path: Path) -> None:
    with RaggedWriter(tmp_path / "a.zarr", "features", depth=4) as out:
        pass
    assert len(Ragged(out.path)) == 0


# --- tables ----------------------------------------------------------------------------------------------------------


def table(path: Path, rows: int = 600) -> pa.Table:
    """A table of text, numbers, lists and nothing, in groups of 100 rows."""
    body = pa.table(
        {
            "shard": [f"s{i // 100}" for i in range(rows)],
            "number": np.arange(rows) * 7919 % 1009,
            "pair": pa.FixedSizeListArray.from_arrays(pa.array(np.arange(2.0 * rows)), 2),
            "none": pa.array([None] * rows, pa.string()),
        }
    )
    write_table(path, body, MADE, row_group=100)
    return body


@pytest.mark.parametrize("rows", [0, 1, 600])
def test_other_programs_read_a_table(tmp_path: Path, rows: int) -> None:
    body = table(tmp_path / "t.parquet", rows)
    assert pq.read_table(tmp_path / "t.parquet").equals(body)
    assert pd.read_parquet(tmp_path / "t.parquet")["number"].tolist() == body["number"].to_pylist()
    assert read_table(tmp_path / "t.parquet").equals(body)
    assert read_table(tmp_path / "t.parquet", ["number"]).column_names == ["number"]
    assert count_rows(tmp_path / "t.parquet") == rows
    assert json.loads(read_table(tmp_path / "t.parquet").schema.metadata[b"maskmill"])["hash"] == MADE.hash


def test_every_byte_of_a_table_counts(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    sound = table(path)
    body = path.read_bytes()
    rng = np.random.default_rng(0)
    for place in [*range(len(body) - 60, len(body)), *rng.choice(len(body), 400, replace=False)]:
        flip(path, int(place), int(1 << rng.integers(8)))
        if place < 4:  # the first word says that it is Parquet; the last one says it again
            assert read_table(path).equals(sound)
        else:
            with pytest.raises(StoreError, match=r"/t\.parquet: .*delete it and run"):
                read_table(path)
        path.write_bytes(body)
    for length in (0, 3, 7, 100, len(body) - 1):
        path.write_bytes(body[:length])
        for reader in (read_table, count_rows):
            with pytest.raises(StoreError, match=r"/t\.parquet: .*delete it and run"):
                reader(path)


def test_only_what_is_read_is_compared(tmp_path: Path) -> None:
    """A job of 10^7 images reads its own group of rows."""
    path = tmp_path / "t.parquet"
    sound = table(path)
    group = pq.read_metadata(path).row_group(4)
    flip(path, group.column(1).data_page_offset + 30)
    assert read_table(path, where=("shard", "s2")).equals(sound.slice(200, 100))
    assert read_table(path, ["pair"]).num_rows == 600
    with pytest.raises(StoreError, match="checksum of its column 'number' does not fit"):
        read_table(path, where=("shard", "s4"))
    with pytest.raises(StoreError, match="checksum of its column 'number' does not fit"):
        read_table(path)


def test_tables_of_others_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    body = table(path)
    with pytest.raises(StoreError, match=r"has no column 'cluster', so it is another table than expected"):
        read_table(path, ["shard", "cluster"])
    assert read_table(path, ["shard"], optional=["number", "cluster"]).column_names == ["shard", "number"]
    pq.write_table(body, path)
    with pytest.raises(StoreError, match=r"no checksums: made by an older maskmill or by another program"):
        read_table(path)


# --- tensors and JSON ------------------------------------------------------------------------------------------------


def test_every_byte_of_tensors_and_json_counts(tmp_path: Path) -> None:
    write_tensors(tmp_path / "t", {"a": np.arange(64, dtype=np.float32), "b": np.float64(2.5)}, MADE)
    write_json(tmp_path / "j", {"miou": 0.25, "of": [1, 2, math.nan], "name": "\u00e9"}, MADE)
    readers = {"t": read_tensors, "j": read_json}
    for name, reader in readers.items():
        path = tmp_path / name
        body, sound, refused = path.read_bytes(), repr(reader(path)), 0  # type: ignore[operator]
        for place in range(len(body)):
            flip(path, place, 1 << place % 8)
            told, found = outcome(lambda: reader(path))  # type: ignore[operator]  # noqa: B023 - called at once
            assert f"/{name}: " in told if told else repr(found) == sound, place
            refused += bool(told)
        path.write_bytes(body)
        assert refused > 0.9 * len(body)


def test_a_changed_score_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    write_json(path, {"miou": 0.25, "nan": math.nan}, MADE)
    assert read_json(path)["miou"] == 0.25
    assert math.isnan(read_json(path)["nan"])
    path.write_text(path.read_text().replace("0.25", "0.35"))
    with pytest.raises(StoreError, match=r"scores\.json: damaged .*delete it and run snakemake again"):
        read_json(path)


def test_what_has_no_checksum_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "plain.json", {"type": "object"})
    assert json.loads((tmp_path / "plain.json").read_text()) == {"type": "object"}
    with pytest.raises(StoreError, match=r"plain\.json: has no checksum: made by an older maskmill"):
        read_json(tmp_path / "plain.json")
    safetensors.numpy.save_file({"a": np.zeros(3)}, tmp_path / "t.safetensors")
    with pytest.raises(StoreError, match=r"t\.safetensors: has no checksum: made by an older maskmill"):
        read_tensors(tmp_path / "t.safetensors")


def test_a_changed_provenance_of_tensors_is_refused(tmp_path: Path) -> None:
    write_tensors(tmp_path / "t.safetensors", {"a": np.zeros(3)}, MADE)
    body = (tmp_path / "t.safetensors").read_bytes()
    (tmp_path / "t.safetensors").write_bytes(body.replace(MADE.hash.encode(), MADE.hash[::-1].encode()))
    with pytest.raises(StoreError, match=r"t\.safetensors: damaged"):
        read_tensors(tmp_path / "t.safetensors")


def test_a_full_disk_is_said_for_tensors_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Safetensors has an error of its own for what the operating system says."""

    def full(*_: Any, **__: Any) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(safetensors.numpy, "save_file", full)
    with pytest.raises(UserError, match=r"t\.safetensors: the disk is full"):
        write_tensors(tmp_path / "t.safetensors", {"a": np.zeros(3)})

"""The ragged store: round trips, crashes, damage, and what a reader is told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskmill.errors import NumericsError, StoreError, UserError
from maskmill.store import ragged as store_module
from maskmill.store.artefact import read_json, read_table, read_tensors, write_json, write_table, write_tensors
from maskmill.store.atomic import atomic
from maskmill.store.provenance import Provenance
from maskmill.store.ragged import Ragged, RaggedWriter

GRIDS = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=0, max_size=12)


def write(path: Path, images: list[np.ndarray], **options: Any) -> Ragged:
    options.setdefault("depth", images[0].shape[2] if images else None)
    with RaggedWriter(path, "features", **options) as out:
        for i, image in enumerate(images):
            out.append(f"im/{i}", image, number=np.float32(i))
    return Ragged(path, "features")


@settings(max_examples=25, deadline=None)
@given(grids=GRIDS, depth=st.integers(1, 7), small=st.booleans(), seed=st.integers(0, 99))
def test_round_trip(tmp_path_factory: Any, grids: list[tuple[int, int]], depth: int, small: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    images = [rng.standard_normal((h, w, depth)).astype(np.float16) for h, w in grids]
    path = tmp_path_factory.mktemp("s") / "a.zarr"
    before = store_module.CHUNK_BYTES, store_module.SHARD_BYTES
    if small:  # many chunks and zarr shards
        store_module.CHUNK_BYTES, store_module.SHARD_BYTES = 2 * depth * 4, 2 * depth * 16
    try:
        got = write(path, images, depth=depth)
    finally:
        store_module.CHUNK_BYTES, store_module.SHARD_BYTES = before
    assert len(got) == len(images)
    for i, image in enumerate(images):
        np.testing.assert_array_equal(got[i], image)
        np.testing.assert_array_equal(got[f"im/{i}"], image)
    streamed = list(got.images())
    assert [image_id for image_id, _ in streamed] == got.ids
    for (_, values), image in zip(streamed, images, strict=True):
        np.testing.assert_array_equal(values, image)
    rows = [image.reshape(-1, depth) for image in images]
    if rows:
        np.testing.assert_array_equal(np.concatenate([block for _, block in got.chunks(5)]), np.concatenate(rows))
        np.testing.assert_array_equal(got.dask().compute(), np.concatenate(rows))
        np.testing.assert_array_equal(got.per_image("number"), np.arange(len(images), dtype=np.float32))


def test_int8_keeps_the_direction(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((20, 20, 64)).astype(np.float32) * 300
    y = write(tmp_path / "a.zarr", [x], dtype="int8")[0]
    cosine = (x * y).sum(-1) / np.linalg.norm(x, axis=-1) / np.linalg.norm(y, axis=-1)
    assert y.dtype == np.float32
    assert (1 - cosine).max() < 2e-4
    zero = write(tmp_path / "b.zarr", [np.zeros((1, 2, 4), np.float32)], dtype="int8")[0]
    np.testing.assert_array_equal(zero, 0)


def test_labels_are_compressed_and_exact(tmp_path: Path) -> None:
    mask = np.zeros((400, 400), np.uint8)
    mask[100:200] = 7
    with RaggedWriter(tmp_path / "m.zarr", "masks", dtype="uint8") as out:
        out.append("a", mask)
    got = Ragged(tmp_path / "m.zarr", "masks")
    np.testing.assert_array_equal(got["a"], mask)
    assert sum(f.stat().st_size for f in (tmp_path / "m.zarr").rglob("*") if f.is_file()) < 20_000


def test_few_files(tmp_path: Path) -> None:
    write(tmp_path / "a.zarr", [np.ones((4, 4, 8), np.float16)] * 50)
    assert sum(f.is_file() for f in (tmp_path / "a.zarr").rglob("*")) <= 12


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e6])
def test_values_that_float16_cannot_hold_are_named(tmp_path: Path, bad: float) -> None:
    x = np.ones((2, 2, 3), np.float32)
    x[0, 1, 2] = bad
    with pytest.raises(NumericsError, match=r"im/0: NaN or infinite.*int8"):
        write(tmp_path / "a.zarr", [x])
    assert list(tmp_path.iterdir()) == []  # nothing half-written stays


def test_wrong_shapes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="depth 3"), RaggedWriter(tmp_path / "a.zarr", "features", depth=3) as out:
        out.append("a", np.zeros((2, 2, 4)))
    with RaggedWriter(tmp_path / "a.zarr", "x", dtype="uint8") as out:
        out.append("a", np.zeros((2, 2), np.uint8), one=1)
        with pytest.raises(ValueError, match="per-image"):
            out.append("b", np.zeros((2, 2), np.uint8), two=1)


def test_reader_says_what_is_wrong(tmp_path: Path) -> None:
    good = write(tmp_path / "a.zarr", [np.ones((3, 3, 4), np.float16)])
    with pytest.raises(StoreError, match=r"none\.zarr: no such store"):
        Ragged(tmp_path / "none.zarr")
    with pytest.raises(StoreError, match="holds 'features', expected 'masks'"):
        Ragged(tmp_path / "a.zarr", "masks")
    with pytest.raises(StoreError, match="holds no image 'x'"):
        good["x"]
    with pytest.raises(StoreError, match="no per-image field 'area'"):
        good.per_image("area")
    (tmp_path / "empty.zarr").mkdir()
    with pytest.raises(StoreError, match=r"empty\.zarr"):
        Ragged(tmp_path / "empty.zarr")


@pytest.mark.parametrize("damage", ["truncate", "flip", "delete"])
def test_damaged_values_are_never_read_silently(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a.zarr"
    write(path, [np.ones((30, 30, 8), np.float16)])
    file = path / "values/c/0/0"
    body = bytearray(file.read_bytes())
    if damage == "truncate":
        file.write_bytes(body[: len(body) // 2])
    elif damage == "flip":
        body[100] ^= 0xFF
        file.write_bytes(body)
    else:
        file.unlink()
    with pytest.raises(StoreError, match=r"a\.zarr: truncated or damaged"):
        Ragged(path)[0]


def test_killed_writer_leaves_nothing_under_the_final_name(tmp_path: Path) -> None:
    code = (
        "import os, signal, numpy as np; from maskmill.store.ragged import RaggedWriter\n"
        f"with RaggedWriter({str(tmp_path / 'a.zarr')!r}, 'features', depth=4) as out:\n"
        "    out.append('a', np.ones((9, 9, 4)))\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "a.zarr").exists()
    write(tmp_path / "a.zarr", [np.ones((9, 9, 4), np.float16)])  # and a new writer is not disturbed


def test_provenance_changes_with_parameters_and_inputs() -> None:
    a = Provenance.of("cut", {"tau": 0.2})
    assert a.hash == Provenance.of("cut", {"tau": 0.2}).hash
    assert len({a.hash, Provenance.of("cut", {"tau": 0.3}).hash, Provenance.of("cut", {"tau": 0.2}, ["x"]).hash}) == 3


def test_hash_is_stored(tmp_path: Path) -> None:
    made = Provenance.of("features", {"x": 1})
    assert write(tmp_path / "a.zarr", [np.ones((1, 1, 1), np.float16)], provenance=made).hash == made.hash
    write_tensors(tmp_path / "t.safetensors", {"a": np.arange(3)}, made)
    tensors, metadata = read_tensors(tmp_path / "t.safetensors")
    np.testing.assert_array_equal(tensors["a"], np.arange(3))
    assert metadata["hash"] == made.hash


def test_full_disk_is_said_and_leaves_no_trace(tmp_path: Path) -> None:
    def fill() -> None:
        with atomic(tmp_path / "out.json") as temporary:
            temporary.write_text("half")
            raise OSError(28, os.strerror(28))

    with pytest.raises(UserError, match=r"out\.json: the disk is full"):
        fill()
    assert list(tmp_path.iterdir()) == []


def test_truncated_artefacts(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": 1}, Provenance.of("cut", {}))
    text = (tmp_path / "a.json").read_text()
    assert json.loads(text)["a"] == read_json(tmp_path / "a.json")["a"] == 1
    (tmp_path / "a.json").write_text(text[:4])
    for reader in (read_json, read_table, read_tensors):
        with pytest.raises(StoreError, match=r"a\.json"):
            reader(tmp_path / "a.json")
        with pytest.raises(StoreError, match="no such"):
            reader(tmp_path / "absent")


def test_a_flipped_bit_anywhere_in_tensors_or_tables_is_found(tmp_path: Path) -> None:
    """Where a reader can be misled: the values of tensors, and the pages of a table."""
    write_tensors(
        tmp_path / "t", {"a": np.arange(64, dtype=np.float32), "b": np.float64(2.5)}, Provenance.of("cut", {})
    )
    write_table(tmp_path / "p", pa.table({"x": np.arange(1000) * 7919 % 1009, "id": [f"im{i}" for i in range(1000)]}))
    flips = {"t": range(-8 * 33, 0), "p": range(4, 2000, 97)}
    for name, places in flips.items():
        body = (tmp_path / name).read_bytes()
        for place in places:
            damaged = bytearray(body)
            damaged[place] ^= 1
            (tmp_path / name).write_bytes(damaged)
            with pytest.raises(StoreError, match=f"/{name}: .*delete it and run"):
                (read_tensors if name == "t" else read_table)(tmp_path / name)

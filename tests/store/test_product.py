"""Product-quantised stores: readers see the vectors of the codes, bit by bit, and damage is one clear error."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from maskmill.errors import StoreError
from maskmill.store import product
from maskmill.store import ragged as store_module
from maskmill.store.floats import as_stored
from maskmill.store.product import LETTERS, Codec
from maskmill.store.provenance import Provenance
from maskmill.store.ragged import Ragged, RaggedWriter
from maskmill.store.seal import with_checksum

GRIDS = [(4, 5), (1, 1), (7, 3), (2, 2)]


def codec(size: int = 4, depth: int = 12, seed: int = 0) -> Codec:
    rng = np.random.default_rng(seed)
    rotation = np.linalg.qr(rng.standard_normal((depth, depth)))[0].astype(np.float32)
    return Codec(rotation, rng.standard_normal((size, LETTERS, depth // size)).astype(np.float32))


def plain(found: Codec, codes: np.ndarray) -> np.ndarray:
    """Vectors of codes [n, bytes] in float64: centroids side by side, rotated back."""
    parts = [found.centroids[j, codes[:, j]] for j in range(found.bytes)]
    return np.concatenate(parts, axis=1).astype(np.float64) @ found.rotation.astype(np.float64)


def write(path: Path, meaning: Codec, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    images = [rng.integers(0, 256, (h, w, meaning.bytes), dtype=np.uint8) for h, w in GRIDS]
    with RaggedWriter(path, "features", depth=meaning.depth, dtype=meaning) as out:
        for i, image in enumerate(images):
            out.append(f"im/{i}", image, cls=np.full(meaning.depth, i, np.float16))
    return images


@pytest.mark.parametrize(("size", "depth"), [(1, 1), (3, 3), (4, 12), (5, 20), (7, 7), (32, 64)])
def test_decoding_is_the_sum_of_rotated_centroids(size: int, depth: int) -> None:
    found, codes = codec(size, depth), np.random.default_rng(1).integers(0, 256, (300, size), dtype=np.uint8)
    np.testing.assert_allclose(found.decode(codes), plain(found, codes), atol=2e-5)
    assert found.decode(codes[:0]).shape == (0, depth)


def test_a_vector_depends_on_its_own_code_to_the_last_bit() -> None:
    found, codes = codec(32, 64), np.random.default_rng(1).integers(0, 256, (1000, 32), dtype=np.uint8)
    whole = found.decode(codes)
    for start, stop in ((0, 1), (3, 700), (999, 1000), (17, 18)):
        np.testing.assert_array_equal(found.decode(codes[start:stop]), whole[start:stop])
    assert Codec(found.rotation, found.centroids).table.tobytes() == found.table.tobytes()


def test_squares_are_the_shares_of_the_squared_length() -> None:
    found, codes = codec(), np.random.default_rng(2).integers(0, 256, (100, 4), dtype=np.uint8)
    lengths = found.squares[np.arange(4), codes].sum(1)
    np.testing.assert_allclose(lengths, np.square(plain(found, codes)).sum(1), rtol=1e-5)


def test_readers_see_vectors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "CHUNK_BYTES", 2 * 12 * 8)  # 8 rows a chunk, as of float16
    monkeypatch.setattr(store_module, "SHARD_BYTES", 2 * 8 * 4)
    meaning = codec()
    images = write(tmp_path / "a.zarr", meaning)
    store = Ragged(tmp_path / "a.zarr", "features")
    assert store.values.chunks == (8, 4)
    assert (store.depth, store.values.dtype, store.ids) == (12, np.uint8, [f"im/{i}" for i in range(4)])
    vectors = [meaning.decode(image.reshape(-1, 4)).reshape(*image.shape[:2], 12) for image in images]
    for i, expected in enumerate(vectors):
        np.testing.assert_array_equal(store[i], expected)
        assert store[i].dtype == np.float32
    for (image_id, values), expected in zip(store.images(), vectors, strict=True):
        np.testing.assert_array_equal(values, expected)
        np.testing.assert_array_equal(store[image_id], expected)
    flat = np.concatenate([each.reshape(-1, 12) for each in vectors])
    np.testing.assert_array_equal(store.rows(3, 33), flat[3:33])
    np.testing.assert_array_equal(np.concatenate([block for _, block in store.chunks(5)]), flat)
    np.testing.assert_array_equal(store.stored(0, 46), np.concatenate([each.reshape(-1, 4) for each in images]))
    np.testing.assert_array_equal(store.per_image("cls")[:, 0], np.arange(4))
    assert store.rows(0, 0).shape == (0, 12)


def test_stores_share_one_codec(tmp_path: Path) -> None:
    write(tmp_path / "a.zarr", codec(seed=5))
    write(tmp_path / "b.zarr", codec(seed=5), seed=1)
    assert Ragged(tmp_path / "a.zarr").codec is Ragged(tmp_path / "b.zarr").codec


def test_an_empty_store(tmp_path: Path) -> None:
    with RaggedWriter(tmp_path / "a.zarr", "features", depth=12, dtype=codec()):
        pass
    assert list(Ragged(tmp_path / "a.zarr").images()) == []


@pytest.mark.parametrize("name", ["rotation", "centroids", "values"])
@pytest.mark.parametrize("how", ["truncated", "changed", "deleted"])
def test_damage_is_one_error(name: str, how: str, tmp_path: Path) -> None:
    write(tmp_path / "a.zarr", codec(seed=9))
    file = next(file for file in sorted((tmp_path / f"a.zarr/{name}/c").rglob("*")) if file.is_file())
    body = bytearray(file.read_bytes())
    if how == "deleted":
        file.unlink()
    elif how == "truncated":
        file.write_bytes(body[:-7])
    else:
        body[len(body) // 2 if name != "values" else 5] ^= 4
        file.write_bytes(body)
    product._known.clear()  # what this process has read before
    with pytest.raises(StoreError, match=r"a\.zarr: truncated or damaged store \(.*delete it and run snakemake again"):
        Ragged(tmp_path / "a.zarr").rows(0, 46)


def test_the_codec_of_another_store_is_refused(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 2)):
        write(tmp_path / f"{name}.zarr", codec(seed=seed))
    for part in ("rotation", "centroids"):
        shutil.rmtree(tmp_path / f"a.zarr/{part}")
        shutil.copytree(tmp_path / f"b.zarr/{part}", tmp_path / f"a.zarr/{part}")
    with pytest.raises(StoreError, match=r"a\.zarr: truncated or damaged store"):
        Ragged(tmp_path / "a.zarr")
    meta = json.loads((tmp_path / "b.zarr/zarr.json").read_text())
    meta["attributes"] = with_checksum(meta["attributes"] | {"codec": codec(seed=3).digest})
    (tmp_path / "b.zarr/zarr.json").write_text(json.dumps(meta))
    with pytest.raises(StoreError, match="its codec is not the one of its codes"):
        Ragged(tmp_path / "b.zarr")


def test_a_codec_in_a_file(tmp_path: Path) -> None:
    meaning, made = codec(seed=4), Provenance.of("features", {"dtype": "pq"}, ["digest"])
    product.write(tmp_path / "pq.safetensors", meaning, {"points": np.float64(3)}, made)
    found, about = product.read(tmp_path / "pq.safetensors")
    assert found.digest == meaning.digest
    assert about["params"] == {"dtype": "pq"}
    with pytest.raises(StoreError, match=r"x: no codec of product-quantised tokens \('rotation'\)"):
        product.of_tensors({}, "x")
    with pytest.raises(StoreError, match=r"x: no codec .*shapes \(12, 12\) and \(4, 256, 2\)"):
        product.of_tensors({"rotation": meaning.rotation, "centroids": meaning.centroids[..., :2]}, "x")


def test_a_store_of_floats_is_what_it_was(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
    with RaggedWriter(tmp_path / "a.zarr", "features", depth=4) as out:
        out.append("a", values)
    store = Ragged(tmp_path / "a.zarr")
    assert store.codec is None
    assert "codec" not in json.loads((tmp_path / "a.zarr/zarr.json").read_text())["attributes"]
    np.testing.assert_array_equal(store["a"], as_stored(values))

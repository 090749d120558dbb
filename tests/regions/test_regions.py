"""Regions against loops over cells, areas in closed form, and matching by image id."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from maskmill.errors import ConfigError, StoreError
from maskmill.images.interpolate import overlap
from maskmill.regions.mean import Params, pool
from maskmill.regions.run import area_and_box, keep_large, keep_larger, run
from maskmill.store.artefact import read_table, write_table
from maskmill.store.ragged import Ragged, RaggedWriter

SIDE = st.integers(1, 7)


def brute(tokens: np.ndarray, segments: np.ndarray, region: int) -> np.ndarray:
    """Area-weighted mean by exact fractions, cell by cell."""
    (h, w, d), (H, W) = tokens.shape, segments.shape
    total, weight = np.zeros(d), 0.0
    for y, x in np.argwhere(segments == region):
        for i in range(h):
            for j in range(w):
                tall = min(Fraction(int(y) + 1, H), Fraction(i + 1, h)) - max(Fraction(int(y), H), Fraction(i, h))
                wide = min(Fraction(int(x) + 1, W), Fraction(j + 1, w)) - max(Fraction(int(x), W), Fraction(j, w))
                area = float(max(tall, 0) * max(wide, 0))
                total, weight = total + area * tokens[i, j], weight + area
    return total / weight


@settings(max_examples=40, deadline=None)
@given(st.data(), SIDE, SIDE, SIDE, SIDE, st.booleans())
def test_pool_is_the_mean_over_cells(data: st.DataObject, h: int, w: int, H: int, W: int, same: bool) -> None:
    H, W = (h, w) if same else (H, W)
    tokens = np.random.default_rng(h * 7 + w).standard_normal((h, w, 3)).astype("f4")
    segments = data.draw(hnp.arrays(np.uint8, (H, W), elements=st.sampled_from([0, 1, 2, 9])))
    vectors, ids = pool(tokens, segments, Params())
    assert ids.tolist() == sorted(set(segments.ravel().tolist()) - {0})
    for vector, region in zip(vectors, ids, strict=True):
        np.testing.assert_allclose(vector, brute(tokens, segments, int(region)), atol=1e-5)


@given(SIDE, SIDE)
def test_overlap_keeps_the_area(fine: int, coarse: int) -> None:
    shared = overlap(fine, coarse)
    np.testing.assert_allclose(shared.sum(axis=1), 1)
    np.testing.assert_allclose(shared.sum(axis=0), fine / coarse)


def test_normalise_gives_every_token_one_vote() -> None:
    tokens = np.array([[[3.0, 0], [0, 4]]], np.float32)
    vectors, _ = pool(tokens, np.ones((1, 2), np.uint8), Params(normalise=True))
    np.testing.assert_allclose(vectors, [[0.5, 0.5]])


@given(hnp.arrays(np.bool_, st.tuples(SIDE, SIDE)).filter(lambda m: m.any()))
def test_box_is_tight(mask: np.ndarray) -> None:
    area, y0, x0, y1, x1 = area_and_box(mask)
    h, w = mask.shape
    ys, xs = np.nonzero(mask)
    assert area == pytest.approx(mask.sum() / (h * w))
    assert (y0, x0, y1, x1) == (ys.min() / h, xs.min() / w, (ys.max() + 1) / h, (xs.max() + 1) / w)


def test_min_area_keeps_the_boundary() -> None:
    segments = np.array([[1, 1, 2, 0], [0, 0, 0, 3]], np.uint8)
    assert set(np.unique(keep_large(segments, 0.25))) == {0, 1}
    assert set(np.unique(keep_large(segments, 0.0))) == {0, 1, 2, 3}


def test_min_pixels_counts_pixels_of_the_photo_and_drops_the_boundary(tmp_path: Path) -> None:
    """COMUS keeps regions of more than 400 pixels of the photo, whatever the grid that they were found on."""
    segments = np.zeros((10, 10), np.uint8)
    segments[:2, :2], segments[5:, 5:] = 1, 2  # 4 % and 25 % of the image
    assert set(np.unique(keep_larger(segments, 0.04))) == {0, 2}
    assert set(np.unique(keep_larger(segments, 0.0399))) == {0, 1, 2}
    sides = {"large": (101, 100), "small": (100, 100)}  # 404 and 400 pixels of segment 1
    with (
        RaggedWriter(tmp_path / "s.zarr", "segments", dtype="uint8") as cut,
        RaggedWriter(tmp_path / "f.zarr", "features", depth=3) as tokens,
    ):
        for name in sides:
            cut.append(name, segments, confidence=np.float32(1))
            tokens.append(name, np.ones((10, 10, 3), "f4"))
    table = {"id": list(sides), "path": list(sides), "shard": ["s", "s"], "label": pa.array([None, None], pa.string())}
    table |= {"height": [s[0] for s in sides.values()], "width": [s[1] for s in sides.values()]}
    write_table(tmp_path / "m.parquet", pa.table(table))
    params = {"features": "semantic", "pool": "mean", "min_pixels": 400}
    files = tmp_path / "s.zarr", tmp_path / "f.zarr", params, tmp_path / "t.parquet", tmp_path / "v.zarr"
    with pytest.raises(ConfigError, match="min_pixels asks for the sizes of the photos; give --manifest"):
        run(*files)
    run(*files, manifest=tmp_path / "m.parquet")
    found = read_table(tmp_path / "t.parquet")
    pairs = zip(found["image"].to_pylist(), found["region"].to_pylist(), strict=True)
    assert list(pairs) == [("large", 1), ("large", 2), ("small", 2)]


def test_files_match_images_by_id(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tokens = {name: rng.standard_normal((4, 6, 8)).astype("f4") for name in ("c", "a", "b")}
    with RaggedWriter(tmp_path / "f.zarr", "features", depth=8, dtype="int8") as out:
        for name, value in tokens.items():
            out.append(name, value, cls=np.zeros(8, np.float16))
    cuts = {name: np.zeros((8, 6), np.uint8) for name in ("a", "b", "c")}
    cuts["a"][2:4, 3:] = 5
    cuts["a"][7, 0] = 2
    cuts["c"][:] = 1
    with RaggedWriter(tmp_path / "s.zarr", "segments", dtype="uint8") as out:
        for i, (name, value) in enumerate(cuts.items()):
            out.append(name, value, confidence=np.float32(i / 4))
    params = {"features": "semantic", "pool": "mean", "min_area": 0.05, "normalise": False}
    run(tmp_path / "s.zarr", tmp_path / "f.zarr", params, tmp_path / "t.parquet", tmp_path / "v.zarr")
    table, vectors = read_table(tmp_path / "t.parquet"), Ragged(tmp_path / "v.zarr", "vectors")
    assert table.column_names == ["image", "region", "area", "y0", "x0", "y1", "x1", "score"]
    assert table.to_pylist() == [
        {"image": "a", "region": 5, "area": 0.125, "y0": 0.25, "x0": 0.5, "y1": 0.5, "x1": 1.0, "score": 0.0},
        {"image": "c", "region": 1, "area": 1.0, "y0": 0.0, "x0": 0.0, "y1": 1.0, "x1": 1.0, "score": 0.5},
    ]
    assert vectors.ids == ["a", "b", "c"]
    assert vectors.grid.tolist() == [[1, 1], [0, 1], [1, 1]]
    np.testing.assert_allclose(vectors["a"][0, 0], tokens["a"][1, 3:].mean(0), atol=0.02)
    np.testing.assert_allclose(vectors["c"][0, 0], tokens["c"].mean((0, 1)), atol=0.02)


def test_an_image_without_features_is_named(tmp_path: Path) -> None:
    with RaggedWriter(tmp_path / "f.zarr", "features", depth=8) as out:
        out.append("a", np.zeros((1, 1, 8), "f4"))
    with RaggedWriter(tmp_path / "s.zarr", "segments", dtype="uint8") as out:
        out.append("zebra", np.ones((1, 1), np.uint8), confidence=np.float32(1))
    with pytest.raises(StoreError, match="zebra"):
        run(tmp_path / "s.zarr", tmp_path / "f.zarr", {"pool": "mean"}, tmp_path / "t.parquet", tmp_path / "v.zarr")
    assert not (tmp_path / "t.parquet").exists()


@pytest.mark.parametrize("field", ["confidence", "scores"])
def test_a_region_has_its_own_score_where_the_cut_has_one(field: str, tmp_path: Path) -> None:
    segments = np.zeros((4, 6), np.uint8)
    segments[:2, :2], segments[2:, 3:] = 1, 2
    scores = {"scores": np.float32([0.9, 0.2, 0.0])} if field == "scores" else {}
    with RaggedWriter(tmp_path / "f.zarr", "features", depth=2) as out:
        out.append("a", np.ones((4, 6, 2), np.float32))
    with RaggedWriter(tmp_path / "s.zarr", "segments", dtype="uint8") as out:
        out.append("a", segments, confidence=np.float32(0.5), **scores)
    run(tmp_path / "s.zarr", tmp_path / "f.zarr", {"pool": "mean"}, tmp_path / "t.parquet", tmp_path / "v.zarr")
    expected = [0.9, 0.2] if scores else [0.5, 0.5]
    np.testing.assert_allclose(read_table(tmp_path / "t.parquet")["score"].to_numpy(), expected)

"""Paint: which regions are kept, what becomes of the others, and interpolation that is exact where it can be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskmill.errors import ConfigError, StoreError
from maskmill.images import interpolate
from maskmill.paint.run import (
    distance_limits,
    paint_regions,
    read_limits,
    region_labels,
    run_limits,
    run_regions,
    run_tokens,
)
from maskmill.painting.tokens import margins
from maskmill.store import codebook
from maskmill.store.artefact import write_table
from maskmill.store.calibration import Calibration
from maskmill.store.classes import Classes
from maskmill.store.classes import write as write_classes
from maskmill.store.ragged import Ragged, RaggedWriter

PARAMS = {"keep_closest": 1.0, "dropped": "ignore", "upsample": 2}


def write_segments(path: Path, images: dict[str, np.ndarray]) -> Path:
    with RaggedWriter(path, "segments", dtype="uint8") as out:
        for image_id, segments in images.items():
            out.append(image_id, segments.astype(np.uint8))
    return path


def write_assignments(path: Path, rows: list[tuple[str, int, int, float]]) -> Path:
    image, region, cluster, distance = zip(*rows, strict=True) if rows else ((), (), (), ())
    columns = {
        "image": pa.array(image, pa.string()),
        "region": pa.array(region, pa.int32()),
        "cluster": pa.array(cluster, pa.int32()),
        "distance": pa.array(distance, pa.float32()),
    }
    write_table(path, pa.table(columns))
    return path


def write_codebook(path: Path, centroids: np.ndarray, spherical: bool = True) -> Path:
    counts = np.ones(len(centroids), np.int64)
    codebook.write(path, codebook.Codebook(centroids.astype(np.float32), counts, 0.0, spherical))
    return path


@settings(deadline=None)
@given(
    st.integers(1, 40), st.integers(1, 4), st.floats(0.01, 1.0), st.integers(0, 2**31)
)  # n regions, k clusters, share kept
def test_the_closest_share_of_each_cluster_is_kept(n: int, k: int, keep: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    cluster, distance = rng.integers(0, k, n), rng.permutation(n) / n
    parts = np.array_split(np.arange(n), 3)
    tables = {str(i): pa.table({"cluster": cluster[p], "distance": distance[p]}) for i, p in enumerate(parts)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("maskmill.paint.run.read_table", lambda path, columns: tables[str(path)])
        limits = distance_limits(list(tables), k, keep)
    for c in range(k):
        mine = np.sort(distance[cluster == c])
        kept = int((mine <= limits[c]).sum())
        assert kept == (0 if not len(mine) else max(1, int(np.ceil(round(keep * len(mine), 9)))))


def test_share_is_not_upset_by_rounding(tmp_path: Path) -> None:
    rows = [(f"{i}", 1, 0, i / 10) for i in range(10)]
    path = write_assignments(tmp_path / "a.parquet", rows)
    for keep in (0.1, 0.3, 0.7):  # 0.7 * 10 and 0.3 * 10 are not whole in binary
        limits = distance_limits([path], 1, keep)
        assert sum(distance <= limits[0] for *_, distance in rows) == round(keep * 10)


def test_equal_distances_are_kept_together(tmp_path: Path) -> None:
    path = write_assignments(tmp_path / "a.parquet", [("a", 1, 0, 0.5), ("b", 1, 0, 0.5), ("c", 1, 0, 0.9)])
    assert distance_limits([path], 1, 0.3)[0] == np.float32(0.5)


def test_labels_of_regions() -> None:
    rows = [(1, 2, 0.1), (2, 0, 0.9)]
    table = region_labels(rows, np.array([0.5, 0.5, 0.5]), 3, 255)
    assert (table[0], table[1], table[2], table[3]) == (0, 3, 255, 255)
    assert region_labels(rows, np.array([0.5, 0.5, 0.5]), 3, 0)[2] == 0


def test_an_image_without_segments_is_unknown() -> None:
    mask = paint_regions(np.zeros((3, 4), np.uint8), np.zeros(256, np.uint8), 5, (6, 8))
    assert mask.shape == (6, 8)
    assert (mask == 255).all()


def test_regions_end_to_end_over_shards(tmp_path: Path) -> None:
    left = np.zeros((4, 4))
    left[:, :2] = 1
    both = left + 2 * (1 - left)
    write_segments(tmp_path / "s0.zarr", {"a": left, "none": np.zeros((2, 2))})
    write_segments(tmp_path / "s1.zarr", {"b": both})
    first = write_assignments(tmp_path / "c/s0.parquet", [("a", 1, 1, 0.1)])
    second = write_assignments(tmp_path / "c/s1.parquet", [("b", 1, 1, 0.8), ("b", 2, 0, 0.2)])
    book = write_codebook(tmp_path / "book.safetensors", np.eye(2))
    params = PARAMS | {"keep_closest": 0.5}  # cluster 1: a is closer than b's first region, whose shard knows only b
    limits = tmp_path / "limits.safetensors"
    run_limits([first, second], book, params, limits)
    for shard, own in (("s0", first), ("s1", second)):
        out = tmp_path / "m" / f"{shard}.zarr"
        run_regions(tmp_path / f"{shard}.zarr", own, limits, book, params, out)
    masks = Ragged(tmp_path / "m/s0.zarr", "masks")
    assert masks.attrs == {"clusters": 2, "ignore": 255, "round": 0}
    np.testing.assert_array_equal(masks["a"], np.repeat([[2, 2, 2, 2, 0, 0, 0, 0]], 8, 0))
    assert (masks["none"] == 255).all()
    np.testing.assert_array_equal(
        Ragged(tmp_path / "m/s1.zarr")["b"], np.repeat([[255, 255, 255, 255, 1, 1, 1, 1]], 8, 0)
    )


def test_an_image_without_a_kept_region_teaches_nothing() -> None:
    """COMUS trains on the images of kept regions only: around a dropped one there is no background to learn."""
    segments = np.array([[1, 1, 0], [0, 2, 2]], np.uint8)
    limits = np.array([0.5])
    far, near = (1, 0, 0.9), (2, 0, 0.1)
    for rows in ([far], [far, (2, 0, 0.8)], [far, (2, -1, 0.0)], []):  # too far, of noise, or not described
        lost = paint_regions(segments, region_labels(rows, limits, 1, 255), 1, (4, 6))
        assert (lost == 255).all()
        scene = paint_regions(segments, region_labels(rows, limits, 1, 0), 1, (4, 6))
        assert not scene.any()  # `dropped: background` says that nothing is there
    kept = paint_regions(segments, region_labels([far, near], limits, 1, 255), 1, (2, 3))
    np.testing.assert_array_equal(kept, [[255, 255, 0], [0, 1, 1]])


def test_a_table_of_another_shard_is_named(tmp_path: Path) -> None:
    segments = write_segments(tmp_path / "s7.zarr", {"a": np.ones((2, 2))})
    other = write_assignments(tmp_path / "s8.parquet", [])
    book = write_codebook(tmp_path / "book.safetensors", np.eye(2))
    run_limits([other], book, PARAMS, tmp_path / "limits.safetensors")
    with pytest.raises(StoreError, match=r"s8\.parquet: belongs to shard 's8', but .*s7\.zarr to 's7'"):
        run_regions(segments, other, tmp_path / "limits.safetensors", book, PARAMS, tmp_path / "m.zarr")


def test_limits_of_another_codebook_are_named(tmp_path: Path) -> None:
    table = write_assignments(tmp_path / "s8.parquet", [])
    run_limits([table], write_codebook(tmp_path / "book.safetensors", np.eye(2)), PARAMS, tmp_path / "l.safetensors")
    assert read_limits(tmp_path / "l.safetensors", 2)[0].tolist() == [-np.inf, -np.inf]  # clusters without a region
    with pytest.raises(StoreError, match=r"l\.safetensors: not the limits of 3 clusters"):
        read_limits(tmp_path / "l.safetensors", 3)


def test_many_clusters_need_16_bits(tmp_path: Path) -> None:
    segments = write_segments(tmp_path / "s0.zarr", {"a": np.array([[1, 0], [2, 2]])})
    rows = [("a", 1, 299, 0.0), ("a", 2, 298, 0.0), ("z", 1, 298, -1.0)]
    table = write_assignments(tmp_path / "c/s0.parquet", rows)
    book = write_codebook(tmp_path / "book.safetensors", np.eye(300))
    params = PARAMS | {"upsample": 1, "keep_closest": 0.5}
    run_limits([table], book, params, tmp_path / "limits.safetensors")
    run_regions(segments, table, tmp_path / "limits.safetensors", book, params, tmp_path / "m.zarr")
    masks = Ragged(tmp_path / "m.zarr")
    assert masks.attrs["ignore"] == 65535
    np.testing.assert_array_equal(masks["a"], [[300, 0], [65535, 65535]])
    assert masks["a"].dtype == np.uint16


@pytest.mark.parametrize("spherical", [True, False])
def test_tokens_take_the_best_cluster(tmp_path: Path, spherical: bool) -> None:
    rng = np.random.default_rng(0)
    tokens = rng.standard_normal((5, 3, 4)).astype(np.float32)
    centroids = rng.standard_normal((6, 4))
    centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
    with RaggedWriter(tmp_path / "v.zarr", "features", depth=4, dtype="float32") as out:
        out.append("a", tokens)
    book = write_codebook(tmp_path / "book.safetensors", centroids, spherical)
    run_tokens(tmp_path / "v.zarr", book, PARAMS | {"upsample": 1}, tmp_path / "m.zarr")
    expected, _ = codebook.assign(tokens.reshape(15, 4), codebook.read(book))
    np.testing.assert_array_equal(Ragged(tmp_path / "m.zarr")["a"], expected.reshape(5, 3) + 1)


@settings(deadline=None)
@given(st.integers(1, 9), st.integers(1, 7))
def test_interpolation_agrees_with_torch(source: int, factor: int) -> None:
    import torch

    x = torch.randn(1, 1, source, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.interpolate(x, size=source * factor, mode="linear", align_corners=False)
    got = interpolate.matrix(source, source * factor) @ x[0, 0].numpy()
    np.testing.assert_allclose(got, expected[0, 0].numpy(), atol=1e-5)


def test_upsampling_a_constant_map_and_straight_edges_is_exact() -> None:
    np.testing.assert_array_equal(
        interpolate.resize_labels(np.full((3, 2), 7, np.uint8), (15, 10)), np.full((15, 10), 7)
    )
    halves = np.array([[4, 9], [4, 9]], np.uint16)
    fine = interpolate.resize_labels(halves, (8, 8))
    assert fine.dtype == np.uint16
    np.testing.assert_array_equal(fine, np.repeat([[4] * 4 + [9] * 4], 8, 0))


def test_upsampling_rounds_a_corner() -> None:
    fine = interpolate.resize_labels(np.array([[0, 0], [0, 1]], np.uint8), (16, 16))
    assert fine[-1, -1] == 1
    assert fine[8, 8] == 0  # weight of the 1 there: (9/16)^2 < 1/2
    assert fine[9, 9] == 0  # (11/16)^2
    assert fine[10, 10] == 1  # (13/16)^2 > 1/2
    np.testing.assert_array_equal(fine, fine.T)


def test_scores_of_more_classes_than_a_block() -> None:
    scores = np.random.default_rng(1).standard_normal((150, 4, 5)).astype(np.float32)
    fine = interpolate.resize_maps(scores, (12, 15))
    np.testing.assert_array_equal(interpolate.upsample_scores(scores, 3), fine.argmax(0))
    ties = np.zeros((150, 2, 2), np.float32)
    assert (interpolate.upsample_scores(ties, 2) == 0).all()


def test_noise_is_ignored_in_tokens_and_not_kept_in_regions(tmp_path: Path) -> None:
    book = codebook.Codebook(np.eye(3, dtype=np.float32), np.ones(2, np.int64), 0.0, True, group=np.array([0, 1, -1]))
    codebook.write(tmp_path / "b.safetensors", book)
    tokens = np.eye(3, dtype=np.float32)[[0, 1, 2, 2]].reshape(2, 2, 3)
    with RaggedWriter(tmp_path / "s0.zarr", "features", depth=3, dtype="float16") as out:
        out.append("a", tokens)
    run_tokens(tmp_path / "s0.zarr", tmp_path / "b.safetensors", PARAMS | {"upsample": 1}, tmp_path / "m.zarr")
    assert Ragged(tmp_path / "m.zarr", "masks")["a"].squeeze().tolist() == [[1, 2], [255, 255]]
    limits = np.array([0.5, 0.5])
    assert region_labels([(1, 0, 0.1), (2, -1, 0.1)], limits, 2, 255)[:3].tolist() == [0, 1, 255]
    unlinked = replace(
        book, diagnostics={"noise_is_background": np.ones(1)}
    )  # communities: what has no link is background
    codebook.write(tmp_path / "u.safetensors", unlinked)
    run_tokens(tmp_path / "s0.zarr", tmp_path / "u.safetensors", PARAMS | {"upsample": 1}, tmp_path / "n.zarr")
    assert Ragged(tmp_path / "n.zarr", "masks")["a"].squeeze().tolist() == [[1, 2], [0, 0]]
    assert region_labels([(1, 0, 0.1), (2, -1, 0.1), (3, 0, 0.9)], limits, 2, 255, 0)[:4].tolist() == [0, 1, 0, 255]


@pytest.mark.parametrize(("abstain", "expected"), [(0.0, [1, 1, 2]), (0.4, [1, 255, 2]), (0.6, [1, 255, 255])])
def test_unsure_cells_are_ignore(tmp_path: Path, abstain: float, expected: list[int]) -> None:
    """A token at a centre has margin 1, one between two centres 0, one at cosines 0.6 and 0.8 has 1 - 0.2 / 0.4."""
    with RaggedWriter(tmp_path / "v.zarr", "features", depth=2, dtype="float32") as out:
        out.append("a", np.array([[[1, 0], [1, 1], [0.6, 0.8]]], np.float32))
    book = write_codebook(tmp_path / "c.safetensors", np.eye(2))
    section = {"upsample": 1} | ({"abstain": abstain} if abstain else {})
    run_tokens(tmp_path / "v.zarr", book, section, tmp_path / "m.zarr")
    assert Ragged(tmp_path / "m.zarr")["a"].tolist() == [expected]


def test_cells_that_are_seldom_right_are_ignore(tmp_path: Path) -> None:
    """Two classes at odds 0.95 and 0.73: their chances to be right are 0.7 and 0.5; without a curve it is an error."""
    with RaggedWriter(tmp_path / "v.zarr", "features", depth=2, dtype="float32") as out:
        out.append("a", np.array([[[3, 0], [1, 1]]], np.float32))
    tensors = {"weights": np.array([[3, 0], [0.41421356, 2]], np.float32), "bias": np.zeros(2, np.float32)}
    curve = np.array([[0.73, 0.5], [0.95, 0.7]])
    section = {"upsample": 1, "abstain": 0.6, "abstain_by": "confidence"}
    classes = Classes(2, np.array([1, 2], np.int32), "linear", tensors)
    for calibration, said in (
        (Calibration("platt", curve, 100, 4), ""),
        (Calibration.none("1 labelled image", 0, 1), "uncalibrated: 1 labelled image; label more"),
        (None, "uncalibrated: no labels made the classes"),
    ):
        write_classes(tmp_path / "c.safetensors", replace(classes, calibration=calibration))
        arguments = tmp_path / "v.zarr", tmp_path / "c.safetensors", section, tmp_path / "m.zarr"
        if said:
            with pytest.raises(ConfigError, match=f"paint.abstain_by: confidence: {said}"):
                run_tokens(*arguments)
            continue
        run_tokens(*arguments)
        assert Ragged(tmp_path / "m.zarr")["a"].tolist() == [[1, 255]]


def test_margins_of_probabilities_are_leads() -> None:
    tensors = {"weights": np.zeros((2, 3), np.float32), "bias": np.log(np.array([0.6, 0.3, 0.1], np.float32))}
    found = margins(np.ones((1, 2, 2)), Classes(3, np.array([1, 2, 3], np.int32), "linear", tensors), (1, 2))
    assert found == pytest.approx(np.full((1, 2), 0.3))

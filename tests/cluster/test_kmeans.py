"""k-means against scikit-learn, brute force, and its own promises: same bits for any threads, shards and blocks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cosine
from sklearn.cluster import KMeans

from maskmill.cluster import run
from maskmill.cluster.kmeans import Params, fit
from maskmill.errors import NumericsError, StoreError
from maskmill.numerics import kmeans_levels, lloyd_cpu, points
from maskmill.numerics.lloyd import lloyd
from maskmill.numerics.lloyd_cpu import CpuEngine
from maskmill.numerics.lloyd_torch import TorchEngine
from maskmill.numerics.points import prepare
from maskmill.numerics.seeds import plus_plus
from maskmill.numerics.two_level import allot
from maskmill.store import codebook as books
from maskmill.store.artefact import read_table, write_table, write_tensors
from maskmill.store.ragged import RaggedWriter

PARAMS = {"max_fit_points": 10_000, "method": "kmeans", "clusters": 4, "restarts": 2}


def blobs(n: int, d: int, k: int, seed: int = 0, spread: float = 0.5) -> np.ndarray:
    """Points around k random centres [n, d] float32."""
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((k, d))[rng.integers(k, size=n)] + spread * rng.standard_normal((n, d))).astype("f4")


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def cost(x: np.ndarray, centroids: np.ndarray, spherical: bool) -> float:
    """Inertia by brute force in float64."""
    x, c = x.astype(np.float64), centroids.astype(np.float64)
    if spherical:
        return float((1 - (unit(x) @ c.T).max(axis=1)).sum())
    return float(((x[:, None] - c[None]) ** 2).sum(-1).min(axis=1).sum())


@pytest.mark.parametrize("seed", range(4))
def test_same_init_gives_the_inertia_of_scikit_learn(seed: int) -> None:
    x = blobs(3000, 8, 12, seed, spread=0.9)
    start = x[np.random.default_rng(seed).choice(len(x), 10, replace=False)]
    course = lloyd(CpuEngine(x, 10, 1), start, kmeans_levels._energy(x), False, 300, 0.0)
    reference = KMeans(10, init=start, n_init=1, max_iter=300, tol=0, algorithm="lloyd").fit(x)
    assert course.converged
    assert course.inertia == pytest.approx(reference.inertia_, rel=1e-5)


@pytest.mark.parametrize("spherical", [False, True])
def test_bounds_change_nothing_and_inertia_falls(spherical: bool) -> None:
    x = blobs(5000, 16, 9, 3, spread=0.8)
    x = unit(x) if spherical else x
    start = x[np.random.default_rng(0).choice(len(x), 20, replace=False)]
    courses = []
    for engine in (CpuEngine(x, 20, 1), TorchEngine(x, 20, torch.device("cpu"), chunk=777)):
        courses.append(lloyd(engine, start, kmeans_levels._energy(x), spherical, 60, 0.0))
    with_bounds, without = courses
    np.testing.assert_allclose(with_bounds.history, without.history, rtol=1e-6)
    np.testing.assert_allclose(with_bounds.centroids, without.centroids, atol=1e-5)
    assert np.all(np.diff(with_bounds.history) <= 1e-9 * with_bounds.history[0])


@pytest.mark.parametrize("count", [2, 3, 7])
def test_several_devices_give_the_bits_of_one(count: int) -> None:
    x = unit(blobs(5000, 16, 9, 3, spread=0.8))
    start = x[:20].copy()
    start[7] = -100  # an empty cluster asks every device for its farthest points
    device = torch.device("cpu")
    one, many = (
        lloyd(TorchEngine(x, 20, places, chunk=700), start, kmeans_levels._energy(x), False, 60, 0.0)
        for places in (device, [device] * count)
    )
    assert one.repaired == many.repaired > 0
    np.testing.assert_array_equal(one.centroids, many.centroids)
    np.testing.assert_array_equal(one.history, many.history)


def test_more_devices_than_chunks_of_points() -> None:
    x = blobs(50, 3, 2)
    sums, counts = TorchEngine(x, 2, [torch.device("cpu")] * 4).step(x[:2])
    assert counts.sum() == 50
    np.testing.assert_allclose(sums.sum(0), x.sum(0, dtype=np.float64), rtol=1e-5)


@pytest.mark.gpu
def test_several_gpus_give_the_bits_of_one() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    x = blobs(200_000, 16, 9, 3, spread=0.8)
    params = Params(clusters=20, spherical=False)
    one, many = (fit(x, params, 0, device)[0] for device in ("cuda:0", "cuda"))
    np.testing.assert_array_equal(one.centroids, many.centroids)


@pytest.mark.parametrize("spherical", [False, True])
def test_reported_inertia_and_counts_are_those_of_assign(spherical: bool) -> None:
    x = blobs(4000, 6, 5, 1) + 3
    book, diagnostics = fit(x, Params(clusters=5, spherical=spherical, tolerance=0), 0, "cpu")
    labels, distance = books.assign(x, book)
    assert diagnostics["converged"]
    assert book.inertia == pytest.approx(cost(x, book.centroids, spherical), rel=1e-5)
    assert distance.astype(np.float64).sum() == pytest.approx(book.inertia, rel=1e-4)
    np.testing.assert_array_equal(np.bincount(labels, minlength=5), book.counts)
    assert np.all(np.diff(book.counts) <= 0)


def test_restarts_are_no_worse_than_scikit_learn() -> None:
    x = blobs(4000, 12, 30, 7, spread=0.7)
    book, _ = fit(x, Params(clusters=20, spherical=False, restarts=10), 0, "cpu")
    reference = KMeans(20, n_init=10, random_state=0).fit(x)
    assert book.inertia < 1.01 * reference.inertia_


def test_spherical_ignores_length_and_agrees_with_euclidean_on_separated_directions() -> None:
    x = unit(blobs(2000, 10, 4, 2, spread=0.1))
    lengths = np.random.default_rng(0).uniform(0.5, 20, (2000, 1)).astype("f4")
    first, _ = fit(x, Params(clusters=4), 0, "cpu")
    second, _ = fit(x * lengths, Params(clusters=4), 0, "cpu")
    third, _ = fit(x, Params(clusters=4, spherical=False), 0, "cpu")
    np.testing.assert_allclose(first.centroids, second.centroids, atol=1e-6)
    np.testing.assert_array_equal(first.counts, third.counts)
    np.testing.assert_allclose(first.centroids, unit(third.centroids), atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(first.centroids, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("engine", ["cpu", "torch"])
def test_empty_clusters_take_the_farthest_points(engine: str) -> None:
    x = np.concatenate([blobs(500, 3, 1, 0, 0.01), blobs(5, 3, 1, 1, 0.01) + 50, blobs(5, 3, 1, 2, 0.01) - 50])
    start = np.concatenate([x[:1], np.full((2, 3), 1e4, np.float32)])
    points = CpuEngine(x, 3, 1) if engine == "cpu" else TorchEngine(x, 3, torch.device("cpu"))
    course = lloyd(points, start, kmeans_levels._energy(x), False, 50, 0.0)
    assert course.repaired >= 2
    assert sorted(course.counts) == [5, 5, 500]


def test_large_offset_and_large_counts_keep_their_digits() -> None:
    """Centred points and float64 sums: |x|^2 - 2xc + |c|^2 in float32 about an offset of 1000 would be noise."""
    x = blobs(6000, 4, 3, 0, 0.02)
    near, _ = fit(x, Params(clusters=3, spherical=False), 0, "cpu")
    far, _ = fit(x + np.float32(1000), Params(clusters=3, spherical=False), 0, "cpu")
    assert far.inertia == pytest.approx(near.inertia, rel=1e-2)  # float32 input itself has steps of 6e-5 there


def test_sums_do_not_stop_at_two_to_the_24() -> None:
    """In float32, 2^24 + 1 is 2^24: sums and counts of that size must still move by one."""
    engine = CpuEngine(np.ones((1, 1), np.float32), 2, 1)
    engine.sums[0, 0], engine.counts[0, 0] = 2.0**24, 2**24
    sums, counts = engine.step(np.array([[1.0], [9.0]], np.float32))
    assert sums[0, 0] == 2**24 + 1
    assert counts[0] == 2**24 + 1
    ones = np.ones((3 << 23, 1), np.float32)  # 1.5 * 2^24 rows
    sums, counts = TorchEngine(ones, 2, torch.device("cpu")).step(np.array([[1.0], [9.0]], np.float32))
    assert sums[0, 0] == counts[0] == 3 << 23


def blocks(x: np.ndarray, size: int) -> Iterator[np.ndarray]:
    return (x[start : start + size] for start in range(0, len(x), size))


@pytest.mark.parametrize("spherical", [False, True])
def test_streaming_is_in_memory(spherical: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kmeans_levels, "SMALLEST_LEVEL", 500)
    x = blobs(9000, 7, 6, 5).astype(np.float16)
    params = Params(clusters=6, spherical=spherical, restarts=2)
    whole, first = fit(x, params, 3, "cpu")
    stream, second = fit(lambda: blocks(x, 1234), params, 3, "cpu")
    assert first["levels"] == second["levels"]
    assert len(first["levels"]) > 1
    np.testing.assert_array_equal(whole.counts, stream.counts)
    np.testing.assert_allclose(whole.centroids, stream.centroids, atol=1e-5)
    assert whole.inertia == pytest.approx(stream.inertia, rel=1e-6)
    other, _ = fit(lambda: blocks(x, 100), params, 3, "cpu")
    np.testing.assert_allclose(stream.centroids, other.centroids, atol=1e-5)


def test_product_size_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x = blobs(6000, 7, 6, 5)
    first, _ = fit(x, Params(clusters=6), 0, "cpu")
    monkeypatch.setattr(lloyd_cpu, "PRODUCT_BYTES", 64 * 6 * 4)
    second, _ = fit(x, Params(clusters=6), 0, "cpu")
    np.testing.assert_array_equal(first.counts, second.counts)
    np.testing.assert_allclose(first.centroids, second.centroids, atol=1e-6)


def test_threads_give_the_same_bits_and_seeds_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kmeans_levels, "SMALLEST_LEVEL", 4000)
    x = blobs(40_000, 9, 20, 6, spread=1.0)
    before = torch.get_num_threads()
    try:
        books_by_threads = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            books_by_threads.append(fit(x, Params(clusters=13, restarts=2), 0, "cpu")[0])
            assert torch.get_num_threads() == threads
        for other in books_by_threads[1:]:
            np.testing.assert_array_equal(books_by_threads[0].centroids, other.centroids)
            np.testing.assert_array_equal(books_by_threads[0].counts, other.counts)
            assert books_by_threads[0].inertia == other.inertia
        assert fit(x, Params(clusters=13, restarts=2), 1, "cpu")[0].inertia != other.inertia
    finally:
        torch.set_num_threads(before)


def test_bad_points_name_the_way_out() -> None:
    x = blobs(100, 3, 2)
    x[7, 1] = np.nan
    with pytest.raises(NumericsError, match="NaN"):
        fit(x, Params(clusters=2), 0, "cpu")
    few = np.repeat(np.eye(3, dtype=np.float32), 50, axis=0)
    with pytest.raises(NumericsError, match=r"cluster.clusters: 4 clusters for 3 distinct vectors; set .* to 3"):
        fit(few, Params(clusters=4), 0, "cpu")
    book, _ = fit(few, Params(clusters=3), 0, "cpu")
    assert book.counts.tolist() == [50, 50, 50]
    assert book.inertia == pytest.approx(0, abs=1e-6)
    with pytest.raises(NumericsError, match="no vectors"):
        fit(np.zeros((0, 3), np.float32), Params(clusters=2), 0, "cpu")
    with pytest.raises(NumericsError, match="3 dimensions"):
        books.scores(np.zeros((2, 5), np.float32), book)


@pytest.mark.parametrize("spherical", [True, False])
@pytest.mark.parametrize("n", [1, 2, 3000])
def test_one_cluster_is_the_mean(spherical: bool, n: int) -> None:
    x = (np.random.default_rng(0).standard_normal((n, 7)) + 1).astype(np.float32)
    book, diagnostics = fit(x, Params(clusters=1, spherical=spherical), 0, "cpu")
    mean = (x / np.linalg.norm(x, axis=1, keepdims=True) if spherical else x).mean(0)
    expected = mean / np.linalg.norm(mean) if spherical else mean
    np.testing.assert_allclose(book.centroids, expected[None], atol=1e-5)
    assert diagnostics["converged"]
    labels, _ = books.assign(x, book)
    assert not np.asarray(labels).any()


def test_rare_points_outside_the_seed_sample_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """All but three of 30 000 points are the same; the seed sample alone cannot give four clusters."""
    x = np.zeros((30_000, 3), np.float32) + np.float32(0.5)
    x[[11, 222, 3333]] = np.eye(3) * 9
    book, _ = fit(x, Params(clusters=4, spherical=False, restarts=1), 0, "cpu")
    assert book.counts.tolist() == [29_997, 1, 1, 1]


@given(st.lists(st.tuples(st.floats(0, 9), st.integers(0, 9)), min_size=1, max_size=9), st.integers(9, 60))
@settings(deadline=None, max_examples=60)
def test_seeds_are_allotted_in_proportion_within_bounds(groups: list[tuple[float, int]], total: int) -> None:
    mass, sizes = np.array([m for m, _ in groups]), np.array([n for _, n in groups])
    shares = allot(mass, sizes, total)
    assert (shares <= sizes).all()
    assert ((shares > 0) == (sizes > 0)).all()
    assert shares.sum() == min(total, sizes.sum())
    assert allot(np.array([3.0, 1, 0]), np.array([50, 50, 50]), 21).tolist() == [15, 5, 1]


@pytest.mark.parametrize("spherical", [False, True])
def test_two_levels_of_seeds_are_about_as_good(spherical: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    x = blobs(6000, 8, 40, 5, spread=0.5)
    params = Params(clusters=150, spherical=spherical, restarts=2)
    flat, _ = fit(x, params, 0, "cpu")
    monkeypatch.setattr(kmeans_levels, "TWO_LEVEL", 100)
    two, _ = fit(x, params, 0, "cpu")
    again, _ = fit(x, params, 0, "cpu")
    assert not np.array_equal(flat.centroids, two.centroids)
    np.testing.assert_array_equal(two.centroids, again.centroids)
    assert two.inertia < 1.03 * flat.inertia
    few = np.repeat(blobs(150, 8, 3, 1), 4, axis=0)  # as many distinct points as clusters
    book, _ = fit(few, params, 0, "cpu")
    assert book.inertia == pytest.approx(0, abs=1e-3)
    with pytest.raises(NumericsError, match="151 clusters for 150 distinct vectors"):
        fit(few, Params(clusters=151, spherical=spherical), 0, "cpu")
    with pytest.raises(NumericsError, match="clusters for 1 distinct vectors"):
        fit(np.ones((500, 3), np.float32), params, 0, "cpu")


def test_seeds_are_distinct_and_follow_the_squared_distance() -> None:
    x = np.concatenate([np.zeros((50, 2)), np.ones((50, 2)) * 10, [[1000.0, 0]]]).astype("f4")
    for chosen in plus_plus(x, 3, [np.random.default_rng(s) for s in range(20)]):
        assert len(np.unique(x[chosen], axis=0)) == 3
        assert 100 in chosen


def test_prepare_matches_its_definition() -> None:
    x = blobs(500, 4, 3).astype(np.float16) + np.float16(2)
    points = prepare(x, False, 1)
    y = x.astype(np.float64)
    scale = np.sqrt(((y - y.mean(0)) ** 2).sum(1).mean())
    assert points.array is not None
    np.testing.assert_allclose(points.array, (y - y.mean(0)) / scale, atol=1e-5)
    assert points.energy == pytest.approx(500, rel=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_agrees_with_the_cpu() -> None:
    x = blobs(50_000, 32, 10, 3, 0.3)
    on_cpu, _ = fit(x, Params(clusters=10), 0, "cpu")
    on_gpu, _ = fit(x, Params(clusters=10), 0, "cuda")
    again, _ = fit(x, Params(clusters=10), 0, "cuda")
    np.testing.assert_array_equal(on_gpu.centroids, again.centroids)
    np.testing.assert_allclose(on_cpu.centroids, on_gpu.centroids, atol=1e-4)


def write_vectors(path: Path, vectors: dict[str, np.ndarray], dtype: str = "float32") -> Path:
    with RaggedWriter(path, "vectors", depth=5, dtype=dtype) as out:
        for image_id, x in vectors.items():
            out.append(image_id, x[:, None])
    return path


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_files_fit_and_assign(tmp_path: Path, dtype: str) -> None:
    x = blobs(60, 5, 4, 0, 0.1)
    images = {"b": x[:20], "a": x[20:45], "empty": x[:0], "c": x[45:]}
    whole = write_vectors(tmp_path / "s0.zarr", images, dtype)
    parts = [write_vectors(tmp_path / f"p{i}.zarr", {name: images[name]}, dtype) for i, name in enumerate(images)]
    run.fit([whole], PARAMS, 0, tmp_path / "one.safetensors", 1, "cpu")
    run.fit(parts, PARAMS, 0, tmp_path / "many.safetensors", 2, "cpu")
    book, split = books.read(tmp_path / "one.safetensors"), books.read(tmp_path / "many.safetensors")
    np.testing.assert_array_equal(book.centroids, split.centroids)
    assert book.hash
    assert book.spherical
    names = [name for name, rows in images.items() for _ in rows]
    table = pa.table({"image": names, "region": pa.array(range(60), pa.int32())})
    write_table(tmp_path / "t.parquet", table)
    run.assign(whole, tmp_path / "t.parquet", tmp_path / "one.safetensors", tmp_path / "out.parquet")
    out = read_table(tmp_path / "out.parquet")
    assert out.column_names == ["image", "region", "cluster", "distance"]
    assert out["image"].to_pylist() == names
    nearest = (unit(np.concatenate(list(images.values()))) @ book.centroids.T).argmax(1)
    np.testing.assert_array_equal(out["cluster"], nearest)
    write_table(tmp_path / "t.parquet", table.slice(1))
    with pytest.raises(StoreError, match=r"t\.parquet"):
        run.assign(whole, tmp_path / "t.parquet", tmp_path / "one.safetensors", tmp_path / "out.parquet")


def test_a_stream_of_stores_gives_the_array_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = blobs(300, 5, 4, 0, 0.1)
    store = write_vectors(tmp_path / "s.zarr", {f"{i}": x[i * 30 : i * 30 + 30] for i in range(10)})
    run.fit([store], PARAMS, 0, tmp_path / "a.safetensors", 1, "cpu")
    monkeypatch.setattr(points, "MEMORY_BYTES", 0)
    run.fit([store], PARAMS, 0, tmp_path / "b.safetensors", 1, "cpu")
    a, b = books.read(tmp_path / "a.safetensors"), books.read(tmp_path / "b.safetensors")
    np.testing.assert_allclose(a.centroids, b.centroids, atol=1e-5)


def test_foreign_file_is_not_a_codebook(tmp_path: Path) -> None:
    write_tensors(tmp_path / "x.safetensors", {"x": np.zeros(2)})
    with pytest.raises(StoreError, match="not a codebook"):
        books.read(tmp_path / "x.safetensors")


def test_a_vector_of_zeros_has_no_direction() -> None:
    book = books.Codebook(np.eye(2, dtype=np.float32), np.ones(2, np.int64), 0.0, True)
    assert books.scores(np.zeros((1, 2), np.float32), book).tolist() == [[0, 0]]
    labels, distance = books.assign(np.zeros((1, 2), np.float16), book)
    assert (labels[0], distance[0]) == (0, 1)


@pytest.mark.parametrize("group", [None, np.array([0, 0, 1, -1], np.int32)])
def test_the_cosine_distance_is_scipys_with_the_centre_that_is_nearest_by_the_codebook(
    group: np.ndarray | None,
) -> None:
    """COMUS keeps the regions closest to their centre by cosine, whatever k-means minimised."""
    rng = np.random.default_rng(3)
    x, centres = rng.standard_normal((200, 6)).astype("f4"), rng.standard_normal((4, 6)).astype("f4")
    book = books.Codebook(centres, np.ones(4 if group is None else 2, np.int64), 0.0, False, group=group)
    nearest = ((x[:, None] - centres[None]) ** 2).sum(2).argmin(1)
    labels, distance = books.assign(x, book, "cosine")
    np.testing.assert_array_equal(labels, nearest if group is None else group[nearest])
    np.testing.assert_allclose(distance, [cosine(a, centres[c]) for a, c in zip(x, nearest, strict=True)], atol=1e-6)
    own_labels, own = books.assign(x, book)
    np.testing.assert_array_equal(labels, own_labels)
    np.testing.assert_allclose(own, ((x - centres[nearest]) ** 2).sum(1), rtol=1e-4)
    spherical = books.Codebook(unit(centres), np.ones(4, np.int64), 0.0, True)
    np.testing.assert_array_equal(books.assign(x, spherical, "cosine")[1], books.assign(x, spherical)[1])
    assert books.assign(np.zeros((1, 6), "f4"), book, "cosine")[1][0] == 1  # no direction


def test_the_table_holds_the_distance_that_the_section_asks_for(tmp_path: Path) -> None:
    x = blobs(40, 5, 4, 0, 0.3)
    store = write_vectors(tmp_path / "s.zarr", {"a": x})
    write_table(tmp_path / "t.parquet", pa.table({"image": ["a"] * 40, "region": pa.array(range(40), pa.int32())}))
    run.fit([store], PARAMS | {"spherical": False}, 0, tmp_path / "b.safetensors", 1, "cpu")
    book = books.read(tmp_path / "b.safetensors")
    for distance in ("own", "cosine"):
        out = tmp_path / f"{distance}.parquet"
        run.assign(store, tmp_path / "t.parquet", tmp_path / "b.safetensors", out, {"distance": distance})
        np.testing.assert_allclose(read_table(out)["distance"], books.assign(x, book, distance)[1], atol=1e-6)  # type: ignore[arg-type]

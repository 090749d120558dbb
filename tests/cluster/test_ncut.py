"""Normalised cuts by landmarks: the dense eigenproblem, blobs and moons, blocks, seeds, and too many clusters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import make_moons
from sklearn.metrics import adjusted_rand_score

from maskmill.cluster import _nystroem, ncut
from maskmill.cluster._nodes import draw_distinct
from maskmill.cluster._rotation import rotate
from maskmill.errors import ConfigError, NumericsError
from maskmill.numerics import blocks
from maskmill.recipe.base import validate
from maskmill.store import codebook as books


def blobs(n: int, d: int, k: int, spread: float = 0.05) -> tuple[np.ndarray, np.ndarray]:
    """Points around k orthogonal unit centres [n, d] float32 and the centre of each."""
    draws = np.random.default_rng(0)
    centres = np.linalg.qr(draws.standard_normal((d, k)))[0].T
    truth = draws.integers(k, size=n)
    return (centres[truth] + spread * draws.standard_normal((n, d))).astype(np.float32), truth


def fit(x: Any, seed: int = 0, **params: Any) -> books.Codebook:
    return ncut.fit(x, ncut.Params(**{"clusters": 4, "fine": 60} | params), seed, "cpu")[0]


def dense(x: np.ndarray, sigma: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Eigenvalues, eigenvectors (both largest first) and affinities of all points, float64, by numpy."""
    x = x.astype(np.float64)
    affinity = np.exp(-((x[:, None] - x[None]) ** 2).sum(axis=2) / (2 * sigma**2))
    degree = affinity.sum(axis=1)
    values, vectors = np.linalg.eigh(affinity / np.sqrt(degree[:, None] * degree))
    return values[::-1], vectors[:, ::-1], affinity


def coordinates(cut: ncut.Cut) -> np.ndarray:
    return np.concatenate([cut.embedding.coordinates(part.features).numpy() for part in cut.parts()])


def aligned(a: np.ndarray, b: np.ndarray) -> float:
    """The smallest cosine of a principal angle between two spaces, of orthonormal columns."""
    return float(np.linalg.svd(a.T @ b)[1].min())


@pytest.mark.parametrize("spherical", [True, False])
def test_with_all_points_as_landmarks_it_is_the_dense_eigenproblem(spherical: bool) -> None:
    x = np.random.default_rng(0).standard_normal((250, 6)).astype(np.float32)
    cut = ncut.Cut(x, ncut.Params(clusters=5, fine=250, spherical=spherical), 0, 5)
    prepared = x / np.linalg.norm(x, axis=1, keepdims=True) if spherical else x - x.mean(axis=0)
    scale = 1.0 if spherical else float(np.sqrt((prepared**2).sum(axis=1).mean()))
    values, vectors, affinity = dense(prepared, cut.sigma * scale)
    np.testing.assert_allclose(cut.embedding.values, values[:6], atol=1e-7)
    found = coordinates(cut)
    for count in range(1, 7):
        assert aligned(found[:, :count], vectors[:, :count]) == pytest.approx(1, abs=1e-9)
    turn = cut.divide(5, 0)
    labels, about = cut.labels(turn)[0], cut.codebook(turn)[1]
    member = np.eye(5)[labels]
    within, volume = np.diag(member.T @ affinity @ member), member.T @ affinity.sum(axis=1)
    assert about["ncut"] == pytest.approx((1 - within / volume).sum(), abs=1e-6)
    assert about["agreement"] == 1


def test_copies_of_points_count_as_points() -> None:
    """Row sums and eigenvectors are those of the points, not of the distinct ones."""
    x = np.random.default_rng(0).standard_normal((60, 4)).astype(np.float32)
    many = np.repeat(x, np.arange(60) % 4 + 1, axis=0)
    cut = ncut.Cut(many, ncut.Params(clusters=3, fine=60), 0, 3)
    values, vectors, _ = dense(many / np.linalg.norm(many, axis=1, keepdims=True), cut.sigma)
    np.testing.assert_allclose(cut.embedding.values, values[:4], atol=1e-7)
    assert aligned(coordinates(cut), vectors[:, :4]) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("fine_by", ["farthest", "sample"])
def test_few_landmarks_come_close_and_stay_orthonormal(fine_by: str) -> None:
    x, _ = blobs(800, 8, 4, spread=0.15)
    cut = ncut.Cut(x, ncut.Params(clusters=4, fine=120, fine_by=fine_by), 0, 4)
    values, vectors, _ = dense(x / np.linalg.norm(x, axis=1, keepdims=True), cut.sigma)
    found = coordinates(cut)
    np.testing.assert_allclose(found.T @ found, np.eye(5), atol=1e-4)
    np.testing.assert_allclose(cut.embedding.values[:4], values[:4], rtol=0.1)
    assert aligned(found[:, :4], vectors[:, :4]) > 0.99


@pytest.mark.parametrize("discretise", ["rotation", "kmeans"])
@pytest.mark.parametrize("spherical", [True, False])
@pytest.mark.parametrize("fine_by", ["farthest", "sample"])
def test_blobs_are_found(discretise: str, spherical: bool, fine_by: str) -> None:
    x, truth = blobs(1500, 8, 4)
    book = fit(x, discretise=discretise, spherical=spherical, fine_by=fine_by)
    labels, distance = books.assign(x, book)
    assert adjusted_rand_score(truth, labels) == 1
    np.testing.assert_array_equal(book.counts, np.sort(np.bincount(truth))[::-1])
    assert distance.astype(np.float64).sum() == pytest.approx(book.inertia, rel=1e-3)
    assert book.diagnostics["agreement"] == 1
    assert book.diagnostics["nodes"] == len(book.centroids) <= 60
    assert (np.diff(book.diagnostics["eigenvalues"]) < 0).all()


@pytest.mark.parametrize("spread", [1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 1e-5])
@pytest.mark.parametrize("fine_by", ["farthest", "sample"])
def test_tight_groups_of_near_duplicates_are_found(spread: float, fine_by: str) -> None:
    """The median distance is that within the largest group, and as small as float32 can say it."""
    draws = np.random.default_rng(0)
    truth = np.repeat([0, 1, 2], [1600, 200, 200])
    centres = np.linalg.qr(draws.standard_normal((32, 3)))[0].T
    x = (centres[truth] + spread / np.sqrt(32) * draws.standard_normal((2000, 32))).astype(np.float32)
    book, about = ncut.fit(x, ncut.Params(clusters=3, fine=150, fine_by=fine_by), 0, "cpu")
    assert about["eigenvalues"][0] == pytest.approx(1, abs=1e-3)
    assert -1e-6 < about["ncut"] < 3
    assert adjusted_rand_score(truth, books.assign(x, book)[0]) == 1


def test_affinities_too_narrow_for_the_landmarks_are_an_error() -> None:
    x = np.random.default_rng(0).standard_normal((2000, 32)).astype(np.float32)
    with pytest.raises(NumericsError, match=r"cluster\.degree: .* too narrow .* set cluster\.degree closer to 1"):
        fit(x, fine=100, degree=0.005, fine_by="sample")
    wrong = [_nystroem.Part(torch.tensor([[1.0, 0], [1, 1.5], [1, -2]]), torch.zeros(3, dtype=torch.int64))]
    with pytest.raises(NumericsError, match=r"largest eigenvalue is \d\.\d+, and not 1"):
        _nystroem.embed(lambda: iter(wrong), 2)


def test_a_few_outliers_far_from_all_landmarks_are_no_error() -> None:
    draws = np.random.default_rng(0)
    x, truth = blobs(2000, 8, 4)
    x = np.concatenate([x, 500 * draws.standard_normal((5, 8)).astype(np.float32)])
    cut = ncut.Cut(x, ncut.Params(clusters=4, fine=60, fine_by="sample", spherical=False, degree=0.2), 0, 4)
    assert cut.embedding.values[0] == pytest.approx(1, abs=1e-3)
    label = cut.labels(cut.divide(4, 0))[0]
    assert adjusted_rand_score(truth, label[:2000]) == 1


def test_moons_are_parted_where_the_bandwidth_is_narrow() -> None:
    x, truth = make_moons(600, noise=0.04, random_state=0)
    x = x.astype(np.float32)
    narrow = fit(x, clusters=2, fine=200, degree=0.03, spherical=False)
    wide = fit(x, clusters=2, fine=200, spherical=False)
    assert adjusted_rand_score(truth, books.assign(x, narrow)[0]) == 1
    assert adjusted_rand_score(truth, books.assign(x, wide)[0]) < 0.9
    assert narrow.diagnostics["sigma"] < wide.diagnostics["sigma"]


def test_the_bandwidth_gives_the_wanted_mean_affinity() -> None:
    x = np.random.default_rng(0).standard_normal((300, 5))
    sigma = _nystroem.bandwidth(x, 0.25)
    assert dense(x, sigma)[2].mean() == pytest.approx(0.25, abs=1e-6)
    apart = np.sqrt(((x[:, None] - x[None]) ** 2).sum(axis=2))[np.triu_indices(300, 1)]
    assert _nystroem.bandwidth(x, None) == pytest.approx(np.median(apart))


def test_blocks_and_threads_change_nothing_and_seeds_move_the_landmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    x, _ = blobs(900, 6, 4, spread=0.3)

    def source(size: int) -> Any:
        def stream() -> Iterator[np.ndarray]:
            return (x[start : start + size] for start in range(0, len(x), size))

        return stream

    monkeypatch.setattr(_nystroem, "BLOCK", 128)
    whole = fit(x)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for size in (7, 100, 900):
            other = fit(source(size))
            np.testing.assert_array_equal(other.centroids, whole.centroids)
            np.testing.assert_array_equal(other.group, whole.group)
            np.testing.assert_array_equal(other.diagnostics["eigenvalues"], whole.diagnostics["eigenvalues"])
    finally:
        torch.set_num_threads(threads)
    monkeypatch.setattr(_nystroem, "HELD_BYTES", 0)  # every pass computes its features anew
    np.testing.assert_array_equal(fit(source(100)).group, whole.group)
    monkeypatch.setattr(_nystroem, "BLOCK", 300)  # other sums, the same clusters
    np.testing.assert_array_equal(fit(x).group, whole.group)
    assert not np.array_equal(fit(x, seed=1).centroids, whole.centroids)


def test_farthest_points_by_hand() -> None:
    line = np.array([[0.0], [1], [2], [7], [10]], np.float32)
    rows = _nystroem.farthest(line, 5, 0)
    assert sorted(rows) == [0, 1, 2, 3, 4]
    taken = [int(rows[0])]
    for row in rows[1:]:
        near = np.abs(line - line[taken].T).min(axis=1)
        assert near[row] == near.max()
        taken.append(int(row))


def test_a_rotation_is_undone() -> None:
    draws = np.random.default_rng(0)
    turn = np.linalg.qr(draws.standard_normal((4, 4)))[0]
    rows = np.eye(4)[draws.integers(4, size=200)] @ turn
    found = rotate(rows.astype(np.float32), 3, 0)
    np.testing.assert_allclose(found @ found.T, np.eye(4), atol=1e-6)
    assert sorted(np.abs(turn @ found).round(5).ravel().tolist()) == [0.0] * 12 + [1.0] * 4


def test_nodes_are_the_largest_groups_and_every_cluster_has_one() -> None:
    near = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 3], np.int16)
    label = np.array([0, 0, 0, 1, 1, 1, 1, 2, 1, 1], np.int16)
    group, node = ncut.largest(ncut.pairs(label, near, 3, 4), 4)  # of six groups the four largest, the first of equals
    assert group.tolist() == [0, 1, 1, 2]
    assert node[near, label].tolist() == [0, 0, 0, 1, 2, 2, 2, 3, -1, -1]
    group, _ = ncut.largest(ncut.pairs(label, near, 3, 4), 2)  # no fewer than clusters
    assert group.tolist() == [0, 1, 2]
    group, _ = ncut.largest(ncut.pairs(label, near, 4, 4), 4)  # nobody is in cluster 3
    assert group.tolist() == [0, 1, 3, 2]


def test_groups_are_counted_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = np.random.default_rng(0)
    label, near = draws.integers(7, size=5000).astype(np.int16), draws.integers(90, size=5000).astype(np.int16)
    pair, inverse, size = np.unique(near.astype(int) * 7 + label, return_inverse=True, return_counts=True)
    monkeypatch.setattr(ncut, "COUNTED", 333)
    counts = ncut.pairs(label, near, 7, 100)
    assert counts.shape == (100, 7)
    np.testing.assert_array_equal(counts.ravel()[pair], size)
    assert counts.sum() == 5000
    group, node = ncut.largest(counts, 100)
    ranked = np.lexsort([np.arange(len(pair)), -size])[:100]  # every cluster has one of the largest
    wanted = np.full(len(pair), -1)
    wanted[np.sort(ranked)] = np.arange(100)
    np.testing.assert_array_equal(node[near, label], wanted[inverse])
    np.testing.assert_array_equal(group, pair[np.sort(ranked)] % 7)


def test_more_clusters_than_structure_and_as_many_as_points() -> None:
    x, _ = blobs(300, 8, 4)
    book = fit(x, clusters=30, fine=60)
    assert len(book) == 30
    assert set(np.unique(book.group)) == set(range(30))
    few = np.eye(6, dtype=np.float32)
    assert len(fit(np.repeat(few, 5, axis=0), clusters=6)) == 6


def test_what_cannot_be_cut_is_named() -> None:
    x, _ = blobs(300, 8, 4)
    broken = x.copy()
    broken[7, 1] = np.nan
    with pytest.raises(NumericsError, match="NaN"):
        fit(broken)
    with pytest.raises(NumericsError, match="all vectors are equal"):
        fit(np.ones((50, 3), np.float32))
    with pytest.raises(NumericsError, match="no vectors"):
        fit(np.zeros((0, 3), np.float32))
    with pytest.raises(NumericsError, match=r"cluster.clusters: 4 clusters for 3 distinct vectors; set .* to 3"):
        fit(np.repeat(np.eye(3, dtype=np.float32), 20, axis=0))
    with pytest.raises(ConfigError, match=r"fine must be at least clusters \(30\)"):
        validate(ncut.Params, {"clusters": 30, "fine": 20}, "r.yaml", "cluster")
    with pytest.raises(ConfigError, match="degree"):
        validate(ncut.Params, {"degree": 1.5}, "r.yaml", "cluster")


@pytest.mark.parametrize("spherical", [True, False])
@pytest.mark.parametrize("fine_by", ["farthest", "sample"])
def test_landmarks_differ_where_most_vectors_are_copies(fine_by: str, spherical: bool) -> None:
    draws = np.random.default_rng(0)
    x = np.concatenate([np.ones((22_000, 8)), draws.standard_normal((300, 8)), np.zeros((50, 8))]).astype(np.float32)
    params = ncut.Params(clusters=20, fine=50, fine_by=fine_by, spherical=spherical)
    cut = ncut.Cut(x, params, 0, 20)
    assert len(np.unique(cut.raw, axis=0)) == 50
    assert len(cut.codebook(cut.divide(20, 0))[0]) == 20


def test_directions_of_many_lengths_are_counted_once() -> None:
    x = np.eye(3, dtype=np.float32)[np.arange(600) % 3] * np.arange(1, 601, dtype=np.float32)[:, None]
    assert len(fit(x, clusters=3, fine=50)) == 3
    with pytest.raises(NumericsError, match="4 clusters for 3 distinct vectors"):
        fit(x, clusters=4, fine=50)


def test_distinct_points_are_drawn_alike_whatever_their_copies_and_blocks() -> None:
    points = np.arange(40, dtype=np.float32)[:, None] * np.array([1, -1], np.float32)
    many = np.repeat(points, np.where(np.arange(40) == 0, 5000, 2), axis=0)
    times = np.zeros(40)
    for seed in range(200):
        drawn = draw_distinct(iter([many]), 10, seed)
        assert len(np.unique(drawn, axis=0)) == 10
        times[drawn[:, 0].astype(int)] += 1
    assert times.min() > 25  # 50 each, with a deviation of 6
    assert times.max() < 75
    parts = draw_distinct(iter(np.array_split(many[::-1], 7)), 10, 199)
    np.testing.assert_array_equal(parts, drawn)
    assert len(draw_distinct(iter([many]), 100, 0)) == 40


def test_vectors_of_zeros_are_no_landmarks() -> None:
    x, truth = blobs(200, 8, 4)
    x[:10] = 0
    for fine in (60, 300):
        book = fit(x, fine=fine)
        assert np.linalg.norm(book.centroids, axis=1).min() > 0.5
        assert book.counts.sum() == 190
        assert adjusted_rand_score(truth[10:], books.assign(x[10:], book)[0]) == 1


def test_rows_come_in_whole_blocks() -> None:
    parts = [np.arange(n) for n in (3, 0, 5, 1)]
    assert [len(block) for block in blocks.rows_in_blocks(parts, 4)] == [4, 4, 1]

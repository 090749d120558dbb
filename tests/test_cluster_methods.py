"""Methods that label nodes: against scipy, scikit-learn and networkx, and the promises of the one codebook format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import fcluster
from scipy.cluster.hierarchy import linkage as scipy_linkage
from scipy.spatial.distance import pdist, squareform
from sklearn.metrics import adjusted_rand_score

from maskmill import codebook as books
from maskmill import registry
from maskmill.cluster import _linkage, run
from maskmill.cluster._nodes import NodeParams, Nodes, codebook_of, summarise
from maskmill.errors import NumericsError, StoreError
from maskmill.store import RaggedWriter

METHODS = ["agglomerative"]
LARGE: dict[str, dict[str, Any]] = {"agglomerative": {"clusters": 4, "fine": 60}}


def blobs(n: int, d: int, k: int, seed: int = 0, spread: float = 0.05) -> tuple[np.ndarray, np.ndarray]:
    """Points around k random unit centres [n, d] float32 and the centre of each."""
    rng = np.random.default_rng(seed)
    centres = np.linalg.qr(rng.standard_normal((d, k)))[0].T  # far apart in either geometry
    truth = rng.integers(k, size=n)
    return (centres[truth] + spread * rng.standard_normal((n, d))).astype("f4"), truth


def fit(method: str, x: Any, seed: int = 0, **params: Any) -> books.Codebook:
    module = registry.load("cluster", method)
    return module.fit(x, module.Params(**LARGE.get(method, {}) | params), seed, "cpu")[0]


@pytest.mark.parametrize("spherical", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_blobs_are_found(method: str, spherical: bool) -> None:
    x, truth = blobs(1500, 8, 4)
    book = fit(method, x, spherical=spherical)
    labels, distance = books.assign(x, book)
    assert len(book) == 4
    assert adjusted_rand_score(truth, labels) == 1
    np.testing.assert_array_equal(book.counts, np.sort(np.bincount(truth))[::-1])
    np.testing.assert_array_equal(np.bincount(labels), book.counts)
    assert distance.astype(np.float64).sum() == pytest.approx(book.inertia, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_few_points_are_their_own_nodes(method: str) -> None:
    x, truth = blobs(50, 8, 4)
    book = fit(method, np.repeat(x, 2, axis=0))  # each point twice
    assert len(book.centroids) == 50
    assert book.counts.sum() == 100
    assert adjusted_rand_score(truth, books.assign(x, book)[0]) == 1


@pytest.mark.parametrize("method", METHODS)
def test_bad_points_are_named(method: str) -> None:
    x, _ = blobs(300, 8, 4)
    broken = x.copy()
    broken[123, 2] = np.nan
    with pytest.raises(NumericsError, match="NaN"):
        fit(method, broken)
    with pytest.raises(NumericsError, match="NaN"):
        fit(method, broken[100:130])
    with pytest.raises(NumericsError, match="all vectors are equal"):
        fit(method, np.ones((100, 8), np.float32))
    with pytest.raises(NumericsError, match="no vectors"):
        fit(method, np.zeros((0, 8), np.float32))
    with pytest.raises(NumericsError, match=r"cluster.clusters: 4 clusters for 3 distinct vectors; set .* to 3"):
        fit(method, np.repeat(np.eye(3, dtype=np.float32), 20, axis=0), clusters=4)


@pytest.mark.parametrize("method", METHODS)
def test_shards_and_threads_change_nothing(method: str, tmp_path: Path) -> None:
    x, _ = blobs(240, 6, 4, spread=0.2)
    images = {f"im{i}": x[i * 24 : i * 24 + 24] for i in range(10)}

    def store(name: str, ids: list[str]) -> Path:
        with RaggedWriter(tmp_path / name, "vectors", depth=6, dtype="float32") as out:
            for image_id in ids:
                out.append(image_id, images[image_id].reshape(4, 6, 6))
        return tmp_path / name

    params = {"max_fit_points": 200, "method": method} | LARGE.get(method, {}) | {"fine": 50}
    run.fit([store("all.zarr", list(images))], params, 3, tmp_path / "one.safetensors", 1, "cpu")
    halves = [store("b.zarr", list(images)[:2:-1]), store("a.zarr", list(images)[:3])]
    run.fit(halves, params, 3, tmp_path / "two.safetensors", 2, "cpu")
    one, two = books.read(tmp_path / "one.safetensors"), books.read(tmp_path / "two.safetensors")
    np.testing.assert_array_equal(one.centroids, two.centroids)
    np.testing.assert_array_equal(one.counts, two.counts)
    assert one.group is not None
    np.testing.assert_array_equal(one.group, two.group)


@pytest.mark.parametrize("linkage", ["average", "ward"])
@given(st.integers(2, 25), st.integers(0, 2**31))
@settings(deadline=None, max_examples=40)
def test_weighted_merges_are_those_of_repeated_points(linkage: str, m: int, seed: int) -> None:
    """Scipy's tree of every point repeated by its weight: copies merge at 0, then as one point of that weight."""
    rng = np.random.default_rng(seed)
    x, weights = rng.standard_normal((m, 3)), rng.integers(1, 5, m)
    repeated = np.repeat(x, weights, axis=0)
    distance = squareform(pdist(x)) if linkage == "average" else _linkage.squared(x)
    pairs, heights = _linkage.merge(distance, weights, linkage)  # type: ignore[arg-type]
    tree = scipy_linkage(repeated, linkage)
    expected = tree[-(m - 1) :, 2] if linkage == "average" else tree[-(m - 1) :, 2] ** 2 / 2
    np.testing.assert_allclose(heights, expected, rtol=1e-6)
    for k in {2, m // 2 + 1, m} - {1}:
        reference = fcluster(tree, k, "maxclust")[np.cumsum(weights) - 1]
        assert adjusted_rand_score(reference, _linkage.cut(pairs, k)) == 1


def test_between_is_the_mean_over_pairs() -> None:
    rng = np.random.default_rng(0)
    x, weights, labels = rng.standard_normal((30, 4)), rng.integers(1, 4, 30), rng.integers(-1, 3, 30)
    mean, total = _linkage.between(x, weights, labels)
    every, who = np.repeat(x, weights, axis=0), np.repeat(labels, weights)
    for a in range(3):
        assert total[a] == (who == a).sum()
        for b in set(range(3)) - {a}:
            pairs = ((every[who == a][:, None] - every[who == b][None]) ** 2).sum(-1)
            assert mean[a, b] == pytest.approx(pairs.mean())
    merged = _linkage.reduce_to(labels, mean, total, 2)
    assert set(merged) == {-1, 0, 1}
    np.testing.assert_array_equal(merged == -1, labels == -1)


@pytest.mark.parametrize("by", ["kmeans", "sample"])
def test_nodes_stand_for_their_nearest_points(by: str) -> None:
    x, _ = blobs(2000, 5, 3, spread=0.3)
    for spherical in (True, False):
        params = NodeParams(fine=40, fine_by=by, spherical=spherical)  # type: ignore[arg-type]
        nodes = summarise(x, params, 0, "cpu")
        stream = summarise(
            lambda: iter(np.array_split(x, 7)), NodeParams(fine=40, fine_by=by, spherical=spherical), 0, "cpu"
        )
        book = books.Codebook(nodes.raw, nodes.counts, 0.0, spherical)
        labels, distance = books.assign(x, book)
        assert abs(np.bincount(labels, minlength=len(nodes)) - nodes.counts).sum() <= 0.05 * len(
            x
        )  # k-means moved last
        assert distance.sum() == pytest.approx(nodes.inertia, rel=2e-2)
        np.testing.assert_allclose(nodes.raw, stream.raw, atol=1e-4)
    with pytest.raises(NumericsError, match="no vectors"):
        summarise(np.zeros((0, 3), np.float32), NodeParams(), 0, "cpu")


def test_a_vector_of_zeros_is_no_node() -> None:
    x = np.concatenate([np.zeros((5, 3)), np.eye(3), 2 * np.eye(3)]).astype("f4")
    assert len(summarise(x, NodeParams(), 0, "cpu")) == 6
    assert len(summarise(x, NodeParams(spherical=False), 0, "cpu")) == 7


@given(st.integers(1, 6), st.booleans(), st.booleans(), st.integers(0, 2**31))
@settings(deadline=None, max_examples=40)
def test_a_grouped_codebook_scores_its_nearest_centroid(k: int, noise: bool, spherical: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    m = 3 * k
    labels = rng.permutation(np.concatenate([np.arange(k), rng.integers(-1 if noise else 0, k, m - k)]))
    raw = rng.standard_normal((m, 4)).astype("f4")
    raw = raw / np.linalg.norm(raw, axis=1, keepdims=True) if spherical else raw
    nodes = Nodes(raw, raw, rng.integers(1, 9, m), 0.0, spherical)
    book, _ = codebook_of(nodes, labels, {})
    assert len(book) == k
    assert book.noise == bool((labels < 0).any())
    assert (np.diff(book.counts) <= 0).all()
    x = rng.standard_normal((20, 4)).astype("f4")
    found, distance = books.assign(x, book)
    plain, expected = books.assign(x, books.Codebook(raw, np.ones(m, np.int64), 0.0, spherical))
    np.testing.assert_allclose(distance, expected, rtol=1e-4, atol=1e-5)
    assert ((found < 0) == (labels[plain] < 0)).all()
    for c in range(k):
        assert len(set(labels[plain][found == c])) <= 1
    assert books.scores(x, book).shape == (20, k + book.noise)


def test_groups_survive_the_file(tmp_path: Path) -> None:
    nodes = Nodes(np.eye(4, dtype="f4"), np.eye(4, dtype="f4"), np.array([1, 5, 2, 1]), 3.5, True)
    book, _ = codebook_of(nodes, np.array([0, 1, -1, 0]), {"nodes": 4})
    books.write(tmp_path / "b.safetensors", book)
    again = books.read(tmp_path / "b.safetensors")
    assert again.group is not None
    assert again.group.tolist() == [0, 1, 1, -1]
    assert again.counts.tolist() == [5, 2]
    assert books.assign(np.eye(4, dtype="f4"), again)[0].tolist() == [1, 0, -1, 1]
    broken = books.Codebook(book.centroids, book.counts, 0.0, True, group=np.array([1, 0, 0, -1]))
    books.write(tmp_path / "c.safetensors", broken)
    with pytest.raises(StoreError, match=r"c\.safetensors: a codebook whose centroids do not fit"):
        books.read(tmp_path / "c.safetensors")

"""Methods that label nodes: against scipy, scikit-learn and networkx, and the promises of the one codebook format."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import fcluster
from scipy.cluster.hierarchy import linkage as scipy_linkage
from scipy.spatial.distance import pdist, squareform
from sklearn.cluster import HDBSCAN, SpectralClustering
from sklearn.datasets import make_circles
from sklearn.metrics import adjusted_rand_score
from sklearn.neighbors import NearestNeighbors

from maskmill.cluster import _graph, _linkage, _selection, communities, consensus, kmeans, run, spectral
from maskmill.cluster._nodes import NodeParams, Nodes, codebook_of, summarise
from maskmill.errors import ConfigError, NumericsError, StoreError
from maskmill.numerics.sampling import rng
from maskmill.recipe import registry
from maskmill.recipe.base import validate
from maskmill.recipe.resolve import load
from maskmill.report._selection import stability
from maskmill.store import codebook as books
from maskmill.store.artefact import read_json
from maskmill.store.ragged import RaggedWriter

LARGE: dict[str, dict[str, Any]] = {
    "agglomerative": {"clusters": 4, "fine": 60},
    "consensus": {"clusters": 4, "fine": 300, "runs": 20},
    "leiden": {"clusters": 4, "fine": 300},
    "spectral": {"clusters": 4, "fine": 300},
    "hdbscan": {"clusters": 4, "fine": 400, "min_cluster_size": 8},
    "communities": {"clusters": 4, "fine": 20, "threshold": 0.01},
}
PACKAGE = {"leiden": "igraph", "communities": "infomap"}


def needs(package: str | None) -> pytest.MarkDecorator:
    """Skip where an optional package is not installed."""
    absent = package is not None and importlib.util.find_spec(package) is None
    return pytest.mark.skipif(absent, reason=f"needs the package {package}")


METHODS = [pytest.param(method, marks=needs(PACKAGE.get(method))) for method in LARGE]


def blobs(n: int, d: int, k: int, seed: int = 0, spread: float = 0.05) -> tuple[np.ndarray, np.ndarray]:
    """Points around k random unit centres [n, d] float32 and the centre of each."""
    rng = np.random.default_rng(seed)
    centres = np.linalg.qr(rng.standard_normal((d, k)))[0].T  # far apart in either geometry
    truth = rng.integers(k, size=n)
    return (centres[truth] + spread * rng.standard_normal((n, d))).astype("f4"), truth


def fit(method: str, x: Any, seed: int = 0, **params: Any) -> books.Codebook:
    module = registry.load("cluster", method)
    more = {"images": lambda: images_of(x)} if method == "communities" else {}
    return module.fit(x, module.Params(**LARGE.get(method, {}) | params), seed, "cpu", **more)[0]


def images_of(x: np.ndarray) -> Iterator[tuple[np.ndarray, bool]]:
    """Images of one blob each: the points near one corner, as lists of regions."""
    while len(x):
        near = ((x - x[0]) ** 2).sum(1) < 0.7
        yield x[near][:, None], False
        x = x[~near]


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
    book = fit(method, np.repeat(x, 2, axis=0), fine=60)  # each point twice
    assert len(book.centroids) == 50
    assert book.counts.sum() == 100
    assert adjusted_rand_score(truth, books.assign(x, book)[0]) == 1


@pytest.mark.parametrize("method", METHODS)
def test_points_that_are_nodes_are_all_as_close(method: str) -> None:
    """What keeps the closest share of a cluster must not choose by rounding."""
    x, _ = blobs(50, 8, 4)
    assert not books.assign(x, fit(method, x, fine=60))[1].any()


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


def test_meetings_are_counted_over_the_runs() -> None:
    """Against the runs one by one: the share in which two nodes have one label."""
    x, _ = blobs(60, 5, 3, spread=0.5)
    params = consensus.Params(clusters=3, runs=7, share=1.0, most=1.0, fine=60)
    nodes = summarise(x, params, 0, "cpu", 3)
    found = consensus.meetings(nodes, params, 4)
    wanted = np.zeros((60, 60))
    for number in range(7):
        seed = int(rng(4, "consensus", str(number)).integers(2**31))
        book, _ = kmeans.fit(nodes.x, kmeans.Params(clusters=3, restarts=1), seed, "cpu")
        labels = books.assign(nodes.x, book)[0]
        wanted += (labels[:, None] == labels[None]) / 7
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_consensus_depends_less_on_the_seed_than_its_runs() -> None:
    x, _ = blobs(300, 24, 12, 5, spread=0.35)
    runs = {
        "consensus": [fit("consensus", x, seed, clusters=6, runs=60, spherical=True) for seed in range(4)],
        "kmeans": [kmeans.fit(x, kmeans.Params(clusters=6, restarts=1), seed, "cpu")[0] for seed in range(4)],
    }
    alike = {}
    for name, found in runs.items():
        labels = [books.assign(x, book)[0] for book in found]
        alike[name] = np.mean([adjusted_rand_score(a, b) for i, a in enumerate(labels) for b in labels[:i]])
    assert alike["consensus"] > alike["kmeans"] + 0.05


def test_agreement_of_a_clear_and_of_a_senseless_partition() -> None:
    affinity = np.kron(np.eye(2), np.ones((3, 3)))
    assert consensus.agreement(affinity, np.array([0, 0, 0, 1, 1, 1])) == 1
    assert consensus.agreement(affinity, np.array([0, 1, 0, 1, 0, 1])) < 0.1
    assert consensus.agreement(affinity, np.zeros(6, int)) == 0


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


@pytest.mark.parametrize("offset", [0.0, 3.0])
def test_neighbours_are_those_of_scikit_learn(offset: float, monkeypatch: pytest.MonkeyPatch) -> None:
    x = blobs(300, 6, 3, spread=0.3)[0] + np.float32(offset)
    monkeypatch.setattr(_graph, "BLOCK_BYTES", 4 * 300 * 70)  # several blocks
    index, distance = _graph.neighbours(x, 7)
    expected, places = NearestNeighbors(n_neighbors=8).fit(x).kneighbors(x)
    np.testing.assert_allclose(np.sqrt(distance), expected[:, 1:], atol=1e-3)
    assert (np.sort(index) == np.sort(places[:, 1:])).mean() > 0.99  # near ties
    weights = _graph.affinity(x, 7)
    assert abs(weights - weights.T).max() == 0
    assert weights.diagonal().sum() == 0
    scale = expected[:, 7]
    i, j = 4, places[4, 3]
    assert weights[i, j] == pytest.approx(np.exp(-(expected[4, 3] ** 2) / (scale[i] * scale[j])), abs=1e-3)


@needs("igraph")
def test_leiden_reaches_the_known_modularity_of_the_karate_club() -> None:
    """0.4198 is its proven maximum (Brandes et al., On modularity clustering, 2008)."""
    club = nx.karate_club_graph()
    weights = nx.to_scipy_sparse_array(club, weight=None, format="csr").astype(float)
    labels = _graph.leiden(weights, 0, 10)(1.0)
    groups = [set(np.flatnonzero(labels == c).tolist()) for c in range(labels.max() + 1)]
    assert nx.community.modularity(club, groups, weight=None) == pytest.approx(0.4198, abs=1e-4)


@pytest.mark.parametrize(
    "method", [pytest.param("leiden", marks=needs("igraph")), pytest.param("infomap", marks=needs("infomap"))]
)
def test_communities_of_a_ring_of_cliques_are_the_cliques(method: str) -> None:
    weights = nx.to_scipy_sparse_array(nx.ring_of_cliques(6, 5), format="csr").astype(float)
    partition = getattr(_graph, method)(weights, 3, 5)
    np.testing.assert_array_equal(partition(1.0), np.repeat(np.arange(6), 5))
    np.testing.assert_array_equal(partition(1.0), partition(1.0))
    for start in (0.01, 1.0, 300.0):
        labels, _ = _graph.wanted(partition, 6, start)
        np.testing.assert_array_equal(labels, np.repeat(np.arange(6), 5))
    assert _graph.communities(_graph.wanted(partition, 3)[0]) in (3, 4, 5, 6)
    with pytest.raises(NumericsError, match=r"cluster.clusters: .* 31 are wanted"):
        _graph.wanted(partition, 31)


@pytest.mark.parametrize("dense", [True, False])
def test_spectral_separates_rings_as_scikit_learn_does(dense: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    x, truth = make_circles(400, factor=0.4, noise=0.03, random_state=0)
    monkeypatch.setattr(spectral, "DENSE", 3000 if dense else 0)
    book = fit("spectral", x.astype("f4"), clusters=2, spherical=False, fine=400)
    labels = books.assign(x.astype("f4"), book)[0]
    assert adjusted_rand_score(truth, labels) == 1
    weights = _graph.affinity(x.astype("f4"), 15)
    theirs = SpectralClustering(2, affinity="precomputed", random_state=0).fit_predict(weights.toarray())
    assert adjusted_rand_score(theirs, labels) == 1


def test_dense_and_sparse_eigenvectors_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = _graph.affinity(np.random.default_rng(0).standard_normal((200, 3)).astype("f4"), 8)
    values, vectors = spectral.embed(weights, 5, 0)
    monkeypatch.setattr(spectral, "DENSE", 0)
    again, others = spectral.embed(weights, 5, 0)
    assert values[0] == pytest.approx(1)
    np.testing.assert_allclose(values, again, atol=1e-8)
    np.testing.assert_allclose(vectors, others, atol=1e-4)


@pytest.mark.parametrize("selection", ["eom", "leaf"])
def test_hdbscan_is_that_of_scikit_learn_with_noise_kept_apart(selection: str) -> None:
    x, _ = blobs(300, 4, 3, spread=0.1)
    x = np.concatenate([x, np.random.default_rng(1).uniform(-3, 3, (60, 4)).astype("f4")])
    own = {"clusters": None, "min_cluster_size": 12, "min_samples": 5, "selection": selection, "spherical": False}
    book = fit("hdbscan", x, noise="ignore", **own)
    labels = books.assign(x, book)[0]
    theirs = HDBSCAN(12, min_samples=5, cluster_selection_method=selection, copy=True).fit_predict(x)
    assert (theirs < 0).any()
    np.testing.assert_array_equal(labels < 0, theirs < 0)
    assert adjusted_rand_score(theirs, labels) == 1
    assert book.noise
    assert book.counts.sum() == (theirs >= 0).sum()
    nearest = books.assign(x, fit("hdbscan", x, noise="nearest", **own))[0]
    assert (nearest >= 0).all()
    assert adjusted_rand_score(theirs[theirs >= 0], nearest[theirs >= 0]) == 1
    fewer = fit("hdbscan", x, noise="ignore", **(own | {"clusters": 2}))
    assert len(fewer) == 2
    with pytest.raises(NumericsError, match="finds no cluster of 12"):
        fit("hdbscan", np.random.default_rng(0).uniform(size=(40, 4)).astype("f4"), **own)
    with pytest.raises(NumericsError, match="clusters of 12 nodes among 9"):
        fit("hdbscan", x[:9], **own)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 3), st.integers(0, 2**31))
@settings(deadline=None, max_examples=30)
def test_pairs_are_counted_in_eight_directions(h: int, w: int, step: int, seed: int) -> None:
    labels = np.random.default_rng(seed).integers(0, 4, (h, w))
    slanted = {1: 1, 2: 1, 3: 2}[step]  # rounded to cells
    expected = np.zeros((4, 4))
    for y in range(h):
        for x in range(w):
            for a in (-1, 0, 1):
                for b in (-1, 0, 1):
                    reach = slanted if a and b else step
                    i, j = y + a * reach, x + b * reach
                    if (a or b) and 0 <= i < h and 0 <= j < w:
                        expected[labels[y, x], labels[i, j]] += 1
    np.testing.assert_array_equal(communities.pairs(labels, 4, [step]), expected)


def test_cooccurrence_is_the_mean_over_images_that_have_the_cluster() -> None:
    book = books.Codebook(np.eye(3, dtype="f4"), np.ones(3, np.int64), 0.0, True)
    eye = np.eye(3, dtype="f4")
    row = eye[[0, 1, 0]][None]  # [1, 3, 3]: 0 1 0
    share = communities.cooccurrence(iter([(row, True), (eye[[0, 0]][None], True)]), book, [1], None)
    np.testing.assert_allclose(share, [[0, 1, 0], [1, 0, 0], [0, 0, 0]])  # in the second image 0 has no other neighbour
    regions = eye[[0, 1, 1, 2]][:, None]
    share = communities.cooccurrence(iter([(regions, False), (eye[:0][:, None], False)]), book, [1], None)
    np.testing.assert_allclose(share, [[0, 2 / 3, 1 / 3], [0.5, 0, 0.5], [1 / 3, 2 / 3, 0]])
    assert communities.network(share, 0.4).toarray()[0].tolist() == [0, 0.5, 0]


@given(st.integers(2, 9), st.integers(0, 2**31))
@settings(deadline=None, max_examples=40)
def test_the_joining_threshold_is_the_largest_that_leaves_the_network_whole(m: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    weight = np.triu(rng.random((m, m)) * (rng.random((m, m)) < 0.6), 1)
    weight += weight.T
    threshold = communities.joining(weight)

    def parts(limit: float) -> int:
        return nx.number_connected_components(nx.from_numpy_array(communities.network(weight, limit).toarray()))

    assert parts(threshold) == parts(0)
    if weight.any():
        assert parts(threshold * (1 + 1e-6)) > parts(0)


@needs("infomap")
@pytest.mark.parametrize("algorithm", ["infomap", pytest.param("leiden", marks=needs("igraph"))])
def test_parts_that_are_neighbours_become_one_cluster(algorithm: str) -> None:
    """Two objects of three parts each; parts of one object are neighbours, in features they are all equally far."""
    rng = np.random.default_rng(0)
    maps = [rng.permutation(np.repeat(np.arange(3), 12)).reshape(6, 6) + 3 * (i % 2) for i in range(20)]
    eye = np.eye(6, dtype="f4")
    x = np.concatenate([eye[m].reshape(-1, 6) for m in maps])
    for clusters in (2, None):
        own = communities.Params(clusters=clusters, fine=6, algorithm=algorithm)  # type: ignore[arg-type]
        book, about = communities.fit(x, own, 0, "cpu", images=lambda: ((eye[m], True) for m in maps))
        assert len(book) == 2
        labels = books.assign(eye, book)[0]
        assert adjusted_rand_score([0, 0, 0, 1, 1, 1], labels) == 1
        assert about["links"] == 6
    own = communities.Params(clusters=2, fine=6, algorithm=algorithm, threshold=0.9)  # type: ignore[arg-type]
    book, about = communities.fit(x, own, 0, "cpu", images=lambda: ((eye[m], True) for m in maps))
    assert len(book) == 2
    assert 0.3 < about["threshold"] < 0.6  # lowered, as it would leave no link
    own = own.model_copy(update={"clusters": None})
    with pytest.raises(NumericsError, match=r"cluster\.threshold: no two of the 6"):
        communities.fit(x, own, 0, "cpu", images=lambda: ((eye[m], True) for m in maps))


def two_objects_and_a_hermit(foreground: bool = False) -> tuple[list[np.ndarray], np.ndarray]:
    """Maps of parts 0..5 (two objects of three parts), of 6, which is anywhere but rare, and of background 7."""
    rng = np.random.default_rng(0)
    maps = [rng.permutation(np.repeat(np.arange(3), 12)).reshape(6, 6) + 3 * (i % 2) for i in range(20)]
    for m in maps[:4]:
        m[0, 0] = 6
    if foreground:
        maps = [np.pad(m, ((0, 0), (0, 2)), constant_values=7) for m in maps]
    return maps, np.eye(8 if foreground else 7, dtype="f4")


@needs("infomap")
@pytest.mark.parametrize("number", ["exact", "preferred"])
@pytest.mark.parametrize("foreground", [False, True])
def test_parts_without_links_are_background_as_published(number: str, foreground: bool) -> None:
    maps, eye = two_objects_and_a_hermit(foreground)
    x = np.concatenate([eye[m[m < 7]] for m in maps])
    own = communities.Params(clusters=2, fine=7, unlinked="background", threshold=0.2)
    own = own.model_copy(update={"number": number})
    more: dict[str, Any] = {}
    if foreground:
        sides = np.array([0] + [1] * 7, "i4")
        more["foreground"] = books.Codebook(eye[[7, *range(7)]], np.ones(2, np.int64), 0.0, True, group=sides)
    book, about = communities.fit(x, own, 0, "cpu", images=lambda: ((eye[m], True) for m in maps), **more)
    labels = books.assign(eye[:7], book)[0]
    assert adjusted_rand_score([0, 0, 0, 1, 1, 1], labels[:6]) == 1
    assert labels[6] == -1
    assert (len(book), about["unlinked"]) == (2, 1)
    if number == "preferred":
        assert about["threshold"] == 0.2
        everything = own.model_copy(update={"unlinked": "clusters"})
        book, _ = communities.fit(x, everything, 0, "cpu", images=lambda: ((eye[m], True) for m in maps), **more)
        assert len(book) == 3
        nothing = own.model_copy(update={"threshold": 0.6})
        with pytest.raises(NumericsError, match=r"cluster\.threshold"):
            communities.fit(x, nothing, 0, "cpu", images=lambda: ((eye[m], True) for m in maps), **more)


def test_what_is_in_one_community_with_the_background_is_background() -> None:
    links = np.ones((5, 5)) - np.eye(5)
    links[1] = links[:, 1] = 0
    found = communities._objects(lambda scale: np.array([3, 9, 0, 4, 0]), links, 4)(1.0)
    assert found.tolist() == [0, -1, -1, 1]
    assert communities._objects(lambda scale: np.array([3, 9, 0, 4, 3]), links, 5)(1.0).tolist() == [0, -1, 1, 2, 0]


@needs("infomap")
def test_infomap_is_told_the_number_as_in_the_published_call() -> None:
    infomap = importlib.import_module("infomap")
    weights = nx.to_scipy_sparse_array(nx.connected_caveman_graph(12, 4), format="csr").astype(float)
    links = [(int(i), int(j), float(w)) for i, j, w in zip(*scipy.sparse.find(scipy.sparse.triu(weights)), strict=True)]
    for wish in (3, 4, 6):
        labels = _graph.infomap(weights, 0, 1, wish)(0.5)
        one = infomap.Infomap(two_level=True, seed=1, markov_time=2, silent=True, preferred_number_of_modules=wish)
        one.add_links(links)
        one.run()
        theirs = [one.get_modules()[i] for i in range(48)]
        assert adjusted_rand_score(theirs, labels) == 1
        assert _graph.communities(labels) == wish


def test_only_infomap_can_be_told_a_number() -> None:
    with pytest.raises(ConfigError, match="number: preferred is a setting of infomap; with leiden set number: exact"):
        validate(communities.Params, {"algorithm": "leiden", "number": "preferred"}, "r.yaml", "cluster")


@needs("igraph")
@pytest.mark.parametrize("clusters", [2, 3, 5, 9, 40])
def test_leiden_gives_the_wanted_number(clusters: int) -> None:
    x, _ = blobs(200, 6, 5, spread=0.3)
    book = fit("leiden", x, clusters=clusters, fine=200)
    assert len(book) == clusters
    assert set(np.unique(books.assign(x, book)[0])) == set(range(clusters))


def test_too_few_nodes_and_a_missing_package_stop_before_any_job(monkeypatch: pytest.MonkeyPatch) -> None:
    for method in ("agglomerative", "spectral"):
        with pytest.raises(ConfigError, match="fine must be at least clusters"):
            validate(registry.load("cluster", method).Params, {"clusters": 30, "fine": 20}, "r.yaml", "cluster")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for method, package in PACKAGE.items():
        with pytest.raises(
            ConfigError, match=rf"needs the package {package}, .* install it with: pip install {package}"
        ):
            validate(registry.load("cluster", method).Params, {}, "r.yaml", "cluster")


def test_selection_scores_use_one_sample_for_every_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_selection, "SAMPLE", 60)
    x, _ = blobs(240, 6, 4)
    with RaggedWriter(tmp_path / "s.zarr", "vectors", depth=6, dtype="float32") as out:
        for i in range(10):
            out.append(f"im{i}", x[i * 24 : i * 24 + 24][:, None])
    found = []
    for seed, k in ((0, 4), (1, 4), (0, 3)):
        params = {"max_fit_points": 1000, "method": "kmeans", "clusters": k}
        paths = tmp_path / "b.safetensors", tmp_path / f"{seed}{k}.json"
        run.fit([tmp_path / "s.zarr"], params, seed, paths[0], 1, "cpu", run.OptionalFiles(paths[1]))
        found.append(read_json(paths[1]))
    same, other, fewer = found
    assert same["sample"] == len(same["labels"]) == 60
    assert same["points"] == 240
    assert stability([same, other]) == [pytest.approx(1)]
    assert stability([same, fewer])[0] < 0.95
    assert stability([same]) == []
    # closed form on a line: a = 1, b = 10 and 11 to the other pair
    line = np.array([[0.0], [1], [10], [11]])
    expected = np.mean([1 - 1 / 10.5, 1 - 1 / 9.5, 1 - 1 / 9.5, 1 - 1 / 10.5])
    assert _selection.silhouette(line, np.array([0, 0, 1, 1]), False) == pytest.approx(expected)
    assert same["silhouette"] > fewer["silhouette"] > 0.5
    assert _selection.silhouette(line, np.zeros(4, int), False) is None
    assert _selection.silhouette(line, np.arange(4), False) is None


@needs("igraph")
@needs("infomap")
def test_the_recipes_resolve_and_take_a_number_of_clusters_for_all() -> None:
    names = ["overcluster", "leiden", "spectral", "hdbscan", "leopart_cd"]
    found = load({"recipes": names, "cluster": {"clusters": 5}}, Path(__file__).parents[2] / "recipes").recipes
    assert [recipe.cluster.params.clusters for recipe in found.values()] == [5] * 5
    assert load({"recipes": ["hdbscan"]}, Path(__file__).parents[2] / "recipes").recipes["hdbscan"].tokens

"""The cut `shi_malik`: its local graph and Ncut against naive ones, recursion, other implementations, no structure."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import eigh
from scipy.sparse import csr_array

from maskmill.cut import shi_malik
from maskmill.cut._weighted import local_graph
from maskmill.errors import NumericsError

LENGTHS = {"sigma_feature": 0.3, "sigma_place": 0.2, "radius": 0.25}


def generator() -> np.random.Generator:
    return np.random.default_rng(0)


def picture(h: int = 14, w: int = 18, noise: float = 0.02, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of backbone `colour` of a picture of four flat regions, and the regions 0..3 by their first cell."""
    regions = np.zeros((h, w), np.int64)
    regions[:, w // 2 :] = 1
    regions[h // 2 + 1 :, w // 4 : w // 2 + 3] = 2
    regions[2:5, 2:6] = 3
    order = np.argsort([np.flatnonzero(regions == r)[0] for r in range(4)])
    regions = np.argsort(order)[regions]
    colours = np.array([[0.1, 0.2, 0.8], [0.9, 0.8, 0.2], [0.2, 0.7, 0.2], [0.8, 0.1, 0.1]])
    rgb = colours[regions] + noise * np.random.default_rng(seed).standard_normal((h, w, 3))
    y, x = np.mgrid[:h, :w] / max(h, w)
    return np.concatenate([rgb, x[..., None], y[..., None]], 2).astype(np.float32), regions


def naive_graph(features: np.ndarray, floor: float) -> np.ndarray:
    h, w, _ = features.shape
    matrix = np.zeros((h * w, h * w))
    for i in range(h * w):
        for j in range(h * w):
            (y, x), (v, u) = divmod(i, w), divmod(j, w)
            apart = np.hypot(y - v, x - u)
            if i != j and apart <= max(1, LENGTHS["radius"] * max(h, w)):
                feature = np.square(features[y, x] - features[v, u]).sum() / LENGTHS["sigma_feature"] ** 2
                place = (apart / max(h, w)) ** 2 / LENGTHS["sigma_place"] ** 2
                matrix[i, j] = max(np.exp(-feature - place), floor)
    return matrix


def naive_ncut(matrix: np.ndarray, side: np.ndarray) -> float:
    cut = matrix[side][:, ~side].sum()
    return float(cut / matrix[side].sum() + cut / matrix[~side].sum())


def same_partition(a: np.ndarray, b: np.ndarray) -> bool:
    pairs = np.unique(np.stack([a.ravel(), b.ravel()]), axis=1)
    return pairs.shape[1] == len(np.unique(a)) == len(np.unique(b))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 7), st.integers(1, 7), st.sampled_from([0.0, 1e-3]))
def test_the_graph_is_the_naive_one(seed: int, h: int, w: int, floor: float) -> None:
    features = np.random.default_rng(seed).random((h, w, 3))
    found = local_graph(features, **LENGTHS, floor=floor).toarray()
    np.testing.assert_allclose(found, naive_graph(features, floor), atol=1e-12)
    np.testing.assert_array_equal(found, found.T)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_ncut_is_the_naive_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    matrix = rng.random((12, 12))
    matrix += matrix.T
    sides = rng.random((6, 12)) > 0.5
    sides[0], sides[1] = True, False
    found = shi_malik.ncut_values(csr_array(matrix), sides)
    assert np.isinf(found[:2]).all()
    for value, side in zip(found[2:], sides[2:], strict=True):
        if 0 < side.sum() < 12:
            assert value == pytest.approx(naive_ncut(matrix, side))


@pytest.mark.parametrize("shape", [(9, 12), (20, 23)])  # the dense and the sparse solver
def test_vectors_are_those_of_the_dense_solver(shape: tuple[int, int]) -> None:
    features = np.random.default_rng(1).random((*shape, 3))
    graph = local_graph(features, **LENGTHS, floor=1e-6)
    values, y = shi_malik.first_vectors(graph, 4, generator())
    degree = np.diag(graph.sum(1))
    exact, vectors = eigh(degree - graph.toarray(), degree, subset_by_index=[1, 4])
    np.testing.assert_allclose(values, exact, atol=1e-9)
    np.testing.assert_allclose(np.abs((y * graph.sum(1)) @ vectors), np.eye(4), atol=1e-6)
    again = shi_malik.first_vectors(graph, 4, np.random.default_rng(5))[1]
    np.testing.assert_allclose(again, y, atol=1e-6)  # signs are fixed, the start does not matter


def test_the_least_ncut_of_the_thresholds_is_taken() -> None:
    features = np.random.default_rng(2).random((6, 8, 3))
    graph = local_graph(features, **LENGTHS, floor=1e-6)
    value, above = shi_malik.two_parts(graph, 30, generator())
    assert value == pytest.approx(naive_ncut(graph.toarray(), above))
    y = shi_malik.first_vectors(graph, 1, generator())[1][0]
    best = min(naive_ncut(graph.toarray(), y > t) for t in np.linspace(y.min(), y.max(), 30, endpoint=False))
    assert value == pytest.approx(best)
    assert shi_malik.two_parts(graph, 1, generator())[0] >= value


def test_pieces_are_parted_for_nothing() -> None:
    blocks = np.zeros((7, 7))
    blocks[:3, :3] = blocks[3:, 3:] = 1
    value, above = shi_malik.two_parts(csr_array(blocks), 5, generator())
    assert value == 0
    assert above.tolist() == [False] * 3 + [True] * 4
    assert shi_malik.two_parts(csr_array((1, 1)), 5, generator())[0] == np.inf


@pytest.mark.parametrize("mode", ["recursive", "kway"])
@pytest.mark.parametrize("partition", ["qr", "kmeans"])
def test_flat_regions_are_found(mode: str, partition: str) -> None:
    tokens, regions = picture()
    params = shi_malik.Params(mode=mode, partition=partition, segments=4)
    found, diagnostics = shi_malik.cut(tokens, params, 0, "a", backbone="colour")
    np.testing.assert_array_equal(found, regions + 1)
    assert found.dtype == np.uint8
    assert diagnostics["scores"].shape == (4,)
    assert diagnostics["confidence"] > 0.9


def test_recursion_stops_at_the_price_and_at_the_number() -> None:
    tokens, regions = picture()
    cut = shi_malik.cut
    free, diagnostics = cut(tokens, shi_malik.Params(stop=0.05), 0, "a", backbone="colour")
    np.testing.assert_array_equal(free, regions + 1)  # seven are allowed, four are worth it
    assert diagnostics["last"] < 0.05
    two, _ = cut(tokens, shi_malik.Params(segments=2), 0, "a", backbone="colour")
    assert two.max() == 2
    graph = local_graph(tokens[..., :3], sigma_feature=0.15, sigma_place=0.1, radius=0.1, floor=1e-6)
    whole = shi_malik.two_parts(graph, 20, generator())
    assert same_partition(two.ravel() == 1, whole[1])  # the cheapest cut is made first


def test_one_odd_cell_is_not_the_cheapest_cut() -> None:
    tokens, _ = picture(noise=0.0)
    tokens[10, 14, :3] = [0.1, 0.9, 0.9]
    found, _ = shi_malik.cut(tokens, shi_malik.Params(segments=2), 0, "a", backbone="colour")
    assert min((found == 1).sum(), (found == 2).sum()) > 10


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["recursive", "kway"]))
def test_a_flipped_picture_has_the_flipped_groups(seed: int, mode: str) -> None:
    tokens, _ = picture(seed=seed)
    params = shi_malik.Params(mode=mode, segments=4)
    plain, _ = shi_malik.cut(tokens, params, 0, "a", backbone="colour")
    flipped, _ = shi_malik.cut(tokens[:, ::-1], params, 0, "a", backbone="colour")
    assert same_partition(flipped[:, ::-1], plain)


def test_only_colour_and_grid_count_on_colours() -> None:
    tokens, regions = picture()
    tokens[..., 3:] = np.random.default_rng(0).random((14, 18, 2))
    found, _ = shi_malik.cut(tokens, shi_malik.Params(segments=4), 0, "a", backbone="colour")
    np.testing.assert_array_equal(found, regions + 1)


def test_other_tokens_count_by_their_direction() -> None:
    _, regions = picture()
    tokens = np.eye(6, dtype=np.float32)[regions]
    tokens = tokens * np.random.default_rng(0).uniform(0.1, 10, (14, 18, 1)).astype(np.float32)
    params = shi_malik.Params(segments=4, sigma_feature=0.5)
    found, _ = shi_malik.cut(tokens, params, 0, "a", backbone="vit_small_focus")
    np.testing.assert_array_equal(found, regions + 1)


def test_groups_are_those_of_scikit_image() -> None:
    """A small graph of three clear groups, cut by scikit-image's recursion and by ours."""
    skimage_graph = pytest.importorskip("skimage.graph")
    rng = np.random.default_rng(0)
    groups = np.repeat([0, 1, 2], [6, 8, 5])
    weights = np.where(groups[:, None] == groups, 0.9, 0.004) * rng.uniform(0.8, 1, (19, 19))
    weights = np.triu(weights, 1)
    weights += weights.T
    rag = skimage_graph.RAG()
    for i in range(19):
        rag.add_node(i, labels=[i])
    for i, j in zip(*np.nonzero(np.triu(weights)), strict=True):
        rag.add_edge(int(i), int(j), weight=float(weights[i, j]))
    theirs = skimage_graph.cut_normalized(np.arange(19)[None], rag, thresh=0.3, num_cuts=10, rng=0)[0]
    ours, _ = shi_malik.recursive(csr_array(weights), 19, 0.3, 10, generator())
    assert same_partition(ours, groups)
    assert same_partition(theirs, groups)


@pytest.mark.parametrize("shape", [(1, 9), (9, 1), (2, 2), (3, 40)])
@pytest.mark.parametrize("mode", ["recursive", "kway"])
def test_any_grid(shape: tuple[int, int], mode: str) -> None:
    tokens = np.random.default_rng(0).random((*shape, 5)).astype(np.float32)
    found, diagnostics = shi_malik.cut(tokens, shi_malik.Params(mode=mode), 0, "a", backbone="colour")
    assert found.shape == shape
    assert found.min() >= 1
    assert all(np.isfinite(value).all() for value in diagnostics.values())


@pytest.mark.parametrize(
    ("tokens", "outcome"),
    [(np.ones((1, 1, 5), np.float32), "one token"), (np.full((6, 7, 5), 0.4, np.float32), "no structure")],
)
def test_no_structure_is_said_and_not_drawn(tokens: np.ndarray, outcome: str) -> None:
    found, diagnostics = shi_malik.cut(tokens, shi_malik.Params(), 0, "a", backbone="colour")
    assert diagnostics["outcome"] == shi_malik.TRAITS.outcomes[outcome]
    assert diagnostics["confidence"] == 0
    assert not found.any()
    normal = shi_malik.cut(picture()[0], shi_malik.Params(), 0, "a", backbone="colour")[1]
    assert {k: np.shape(v) for k, v in diagnostics.items()} == {k: np.shape(v) for k, v in normal.items()}


def test_nan_is_named() -> None:
    tokens, _ = picture()
    tokens[0, 0, 0] = np.inf
    with pytest.raises(NumericsError, match="cat/1: 1 of 252 tokens"):
        shi_malik.cut(tokens, shi_malik.Params(), 0, "cat/1", backbone="colour")

"""The cut `kcut`: its value against all partitions of small graphs, against spectral groups, and that it only falls."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from maskmill.cut import kcut
from maskmill.cut._engine import solve
from maskmill.cut._kway import alternate, exchanged, joined, objective, partition
from maskmill.cut._partition import by_kmeans, compact, group_sums, without_ground
from maskmill.cut._weighted import WeightedAffinity, cosines, positive_cosines, scaled_cosines
from maskmill.errors import NumericsError


def graph(matrix: np.ndarray) -> WeightedAffinity:
    return WeightedAffinity.of(torch.from_numpy(matrix.astype(np.float32)))


def cliques(sizes: tuple[int, ...], eps: float) -> tuple[np.ndarray, np.ndarray]:
    groups = np.repeat(np.arange(len(sizes)), sizes)
    return np.where(groups[:, None] == groups, 1.0, eps), groups


def naive_ncut(matrix: np.ndarray, labels: np.ndarray) -> float:
    degree = matrix.sum(1)
    return sum(float(matrix[labels == k][:, labels != k].sum() / degree[labels == k].sum()) for k in np.unique(labels))


def least_ncut(matrix: np.ndarray, groups: int) -> float:
    """Of all partitions into so many groups; token 0 is in group 0."""
    labels = np.array([(0, *rest) for rest in product(range(groups), repeat=len(matrix) - 1)])
    member = (labels[:, None] == np.arange(groups)[:, None]).astype(np.float64)  # [partitions, groups, n]
    member = member[member.any(2).all(1)]
    inside, volume = ((member @ matrix) * member).sum(2), member @ matrix.sum(1)
    return float(groups - (inside / volume).sum(1).max())


def scene(
    h: int = 24, w: int = 30, noise: float = 0.4, seed: int = 0, depth: int = 16
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of four regions of their own direction with noise, and the regions 0..3 by their first token."""
    regions = np.zeros((h, w), np.int64)
    regions[:, w // 2 :] = 1
    regions[h // 2 :, w // 4 : w // 2 + 3] = 2
    regions[2 : h // 4, 2 : w // 5] = 3
    regions = compact(regions.ravel()).reshape(h, w)
    rng = np.random.default_rng(seed)
    tokens = np.eye(depth)[regions] + noise / np.sqrt(depth) * rng.standard_normal((h, w, depth))
    return tokens.astype(np.float32), regions


@pytest.mark.parametrize("sizes", [(5, 4), (3, 7, 4), (60, 90, 70)])
@pytest.mark.parametrize("eps", [0.0, 1e-4, 0.2])
def test_cliques_are_the_groups(sizes: tuple[int, ...], eps: float) -> None:
    matrix, groups = cliques(sizes, eps)
    found = partition(graph(matrix), len(sizes), (1, len(groups)))
    np.testing.assert_array_equal(compact(found.labels), groups)
    cut = sum(eps * size * (len(groups) - size) / (size * size + eps * size * (len(groups) - size)) for size in sizes)
    assert len(sizes) - found.trace[-1] == pytest.approx(cut, abs=1e-5)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(4, 8), st.sampled_from([2, 3]), st.booleans())
def test_no_partition_of_a_small_graph_is_much_better(seed: int, n: int, groups: int, sparse: bool) -> None:
    """All partitions are tried: the value reached is the least in most graphs, and never far from it."""
    rng = np.random.default_rng(seed)
    matrix = rng.random((n, n)) ** (4 if sparse else 1)
    matrix = (matrix + matrix.T) / 2 + np.eye(n)
    found = partition(graph(matrix), groups, (1, n))
    assert len(np.unique(found.labels)) == groups
    value = naive_ncut(matrix, found.labels)
    assert groups - found.trace[-1] == pytest.approx(value, abs=1e-5)
    best = least_ncut(matrix, groups)
    assert value <= best + 0.1 * groups


def test_the_least_cut_of_small_graphs_is_mostly_found() -> None:
    reached = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        tokens = torch.from_numpy(rng.standard_normal((7, 4)).astype(np.float32))
        matrix = scaled_cosines(tokens, 2.0)
        assert matrix is not None
        for groups in (2, 3):
            found = partition(WeightedAffinity.of(matrix), groups, (1, 7))
            reached += naive_ncut(matrix.double().numpy(), found.labels) <= least_ncut(matrix.numpy(), groups) + 1e-5
    assert reached >= 54


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 9), st.sampled_from([1.0, 3.0, 10.0]))
def test_ncut_never_rises(seed: int, groups: int, alpha: float) -> None:
    tokens = np.random.default_rng(seed).standard_normal((200, 5)).astype(np.float32)
    matrix = scaled_cosines(torch.from_numpy(tokens), alpha)
    assert matrix is not None
    found = partition(WeightedAffinity.of(matrix), groups, (10, 20))
    assert len(np.unique(found.labels)) == groups
    assert (np.diff(found.trace) > -1e-6).all()
    assert groups - found.trace[-1] == pytest.approx(naive_ncut(matrix.double().numpy(), found.labels), abs=1e-4)


def test_a_definite_affinity_needs_no_second_try() -> None:
    """Cosines and their whole powers are definite: then every step of the alternation is taken as it comes."""
    rng = np.random.default_rng(0)
    matrix = cosines(torch.from_numpy(rng.standard_normal((150, 6)).astype(np.float32))).add_(1).pow_(3)
    affinity = WeightedAffinity.of(matrix)
    degree, start = affinity.degree.double().numpy(), rng.integers(0, 4, 150)
    labels = start
    products, trace = group_sums(matrix, labels, 4), []
    for _ in range(100):
        volume = np.bincount(labels, degree)[:, None]
        weight = np.array([products[k, labels == k].sum() for k in range(4)])[:, None]
        new = (2 * products / volume - degree * weight / volume**2).argmax(0)  # the formula, without regularisation
        if (new == labels).all():
            break
        labels, products = new, group_sums(matrix, new, 4)
        trace.append(objective(products, degree, labels))
    assert len(trace) > 2
    assert (np.diff(trace) > 0).all()
    np.testing.assert_array_equal(alternate(matrix, degree, start, 4)[0], labels)


def test_the_regularisation_keeps_steps_from_making_it_worse() -> None:
    """A bipartite graph has the most negative eigenvalues: all tokens would change sides at once, for ever."""
    matrix = np.kron(np.array([[0.0, 1.0], [1.0, 0.0]]), np.ones((6, 6))) + 1e-3
    affinity = graph(matrix)
    degree, labels = affinity.degree.double().numpy(), np.arange(12) % 2
    labels[:2] = 0
    before = objective(group_sums(affinity.matrix, labels, 2), degree, labels)
    found, trace = alternate(affinity.matrix, degree, labels, 2)
    assert (np.diff([before, *trace]) > 0).all()
    assert len(np.unique(found)) == 2


def test_exchanges_end_where_no_single_move_gains() -> None:
    rng = np.random.default_rng(3)
    matrix = rng.random((40, 40))
    matrix = (matrix + matrix.T) / 2
    affinity = graph(matrix)
    labels, trace = exchanged(affinity.matrix, affinity.degree.double().numpy(), rng.permutation(np.arange(40) % 4), 4)
    value = naive_ncut(matrix, labels)
    assert 4 - trace[-1] == pytest.approx(value, abs=1e-5)
    for token, group in product(range(40), range(4)):
        other = labels.copy()
        other[token] = group
        assert naive_ncut(matrix, other) > value - 1e-6 or len(np.unique(other)) < 4


def test_groups_that_cost_least_are_joined_first() -> None:
    between = np.array([[4.0, 3.0, 0.1], [3.0, 4.0, 0.1], [0.1, 0.1, 4.0]])
    volume = between.sum(1)
    assert joined(between, volume, 2).tolist() == [0, 0, 1]
    assert joined(between, volume, 1).tolist() == [0, 0, 0]
    same = np.outer([1.0, 2.0, 1.0], [1.0, 2.0, 1.0])
    assert joined(same, same.sum(1), 3).tolist() == [0, 0, 0]  # parts of one kind of token


@pytest.mark.parametrize("groups", [4, 8])
@pytest.mark.parametrize("sharp", [True, False])
def test_it_is_no_worse_than_spectral_groups(groups: int, sharp: bool) -> None:
    tokens = np.random.default_rng(groups).standard_normal((16 * 20, 8)).astype(np.float32)
    tokens += 2 * scene(16, 20, depth=8)[0].reshape(-1, 8)
    flat = torch.from_numpy(tokens)
    matrix = scaled_cosines(flat, 10.0) if sharp else positive_cosines(flat)
    assert matrix is not None
    affinity = WeightedAffinity.of(matrix)
    y = solve(affinity, groups - 1, np.random.default_rng(0)).vectors.double().numpy()
    spectral = naive_ncut(matrix.double().numpy(), by_kmeans(y, groups, np.random.default_rng(0), 10))
    assert groups - partition(affinity, groups, (16, 20)).trace[-1] <= spectral + 1e-6


def test_regions_are_found_and_nothing_is_random() -> None:
    tokens, regions = scene()
    found, diagnostics = kcut.cut(tokens, kcut.Params(segments=4), 0, "a")
    np.testing.assert_array_equal(found, regions + 1)
    assert found.dtype == np.uint8
    assert diagnostics["scores"].shape == (4,)
    assert (diagnostics["scores"] > 0.5).all()
    assert diagnostics["confidence"] == pytest.approx(1 - diagnostics["ncut"] / 3, abs=1e-5)
    again, other = kcut.cut(tokens * 3, kcut.Params(segments=4), 7, "b")
    np.testing.assert_array_equal(again, found)
    assert other["ncut"] == pytest.approx(diagnostics["ncut"], abs=1e-5)


def test_objects_are_what_avoids_the_border() -> None:
    labels = np.zeros((8, 8), np.int64)
    labels[3:5, 3:6] = 1
    labels[7, 7] = 2
    segments, kept = without_ground(labels, True)
    assert kept.tolist() == [1]
    np.testing.assert_array_equal(segments, labels == 1)
    assert without_ground(labels, False)[1].tolist() == [0, 1, 2]
    assert without_ground(np.arange(6)[None], True)[1].tolist() == list(range(6))  # a row is all border
    tokens, regions = scene()
    found, diagnostics = kcut.cut(tokens, kcut.Params(segments=4, keep="objects"), 0, "a")
    whole = kcut.cut(tokens, kcut.Params(segments=4), 0, "a")[1]["scores"]
    dropped = [r for r in range(4) if not found[regions == r].any()]
    np.testing.assert_array_equal(diagnostics["scores"][: found.max()], np.delete(whole, dropped))
    assert not diagnostics["scores"][found.max() :].any()


@pytest.mark.parametrize("shape", [(1, 2), (1, 9), (3, 3), (40, 3)])
def test_any_grid_and_more_groups_than_tokens(shape: tuple[int, int]) -> None:
    tokens = np.random.default_rng(0).standard_normal((*shape, 5)).astype(np.float32)
    found, diagnostics = kcut.cut(tokens, kcut.Params(segments=12), 0, "a")
    assert found.shape == shape
    assert sorted(np.unique(found)) == list(range(1, min(12, shape[0] * shape[1]) + 1))
    assert all(np.isfinite(value).all() for value in diagnostics.values())


@pytest.mark.parametrize(("shape", "groups"), [((20, 20), 190), ((2, 200), 100), ((12, 13), 150)])
def test_any_number_of_groups_is_reached(shape: tuple[int, int], groups: int) -> None:
    """Also more than the seeds of few groups; and on a narrow grid, with few even ones."""
    tokens = np.random.default_rng(0).standard_normal((*shape, 16)).astype(np.float32)
    found, diagnostics = kcut.cut(tokens, kcut.Params(segments=groups), 0, "a")
    assert found.max() == diagnostics["groups"] == groups


def test_equal_tokens_are_one_group() -> None:
    tokens = np.zeros((12, 15, 4), np.float32)
    tokens[..., 0] = 1
    tokens[4:7, 3:9] = [0, 1, 0, 0]
    tokens[0, 0] = 0  # no direction at all
    found, diagnostics = kcut.cut(tokens, kcut.Params(segments=8), 0, "a")
    assert found.max() == diagnostics["groups"] == 3
    assert len(np.unique(found[4:7, 3:9])) == 1


@pytest.mark.parametrize(
    ("tokens", "outcome"),
    [(np.ones((1, 1, 5), np.float32), "one token"), (np.full((6, 7, 5), 0.4, np.float32), "no structure")],
)
def test_no_structure_is_said_and_not_drawn(tokens: np.ndarray, outcome: str) -> None:
    found, diagnostics = kcut.cut(tokens, kcut.Params(), 0, "a")
    assert diagnostics["outcome"] == kcut.TRAITS.outcomes[outcome]
    assert diagnostics["confidence"] == 0
    assert not found.any()
    normal = kcut.cut(scene()[0], kcut.Params(), 0, "a")[1]
    assert {k: np.shape(v) for k, v in diagnostics.items()} == {k: np.shape(v) for k, v in normal.items()}


def test_nan_and_bad_settings_are_named() -> None:
    tokens, _ = scene()
    tokens[0, 0, 0] = np.nan
    with pytest.raises(NumericsError, match="cat/1: 1 of 720 tokens"):
        kcut.cut(tokens, kcut.Params(), 0, "cat/1")
    with pytest.raises(ValidationError, match="segments"):
        kcut.Params(segments=1)
    with pytest.raises(ValidationError, match="alpha"):
        kcut.Params(alpha=0)

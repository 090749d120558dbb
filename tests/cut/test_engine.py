"""The spectral engine against closed forms and against a dense solver."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_ncut import graph, scene
from scipy.linalg import block_diag, eigh

from maskmill.cut._affinity import STRIP, BinaryAffinity, threshold_strips, unit_rows
from maskmill.cut._engine import SMALL, solve

EPS = 1e-5


def cliques(*sizes: int, eps: float = EPS) -> BinaryAffinity:
    edges = block_diag(*[np.ones((size, size)) for size in sizes])
    return BinaryAffinity.from_edges(torch.from_numpy(edges.astype(np.float32)), eps)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def reference(affinity: np.ndarray, pairs: int) -> tuple[np.ndarray, np.ndarray]:
    degree = np.diag(affinity.sum(1))
    values, vectors = eigh(degree - affinity, degree, subset_by_index=[1, pairs + 1])
    return values, vectors[:, :pairs].T


@dataclass(frozen=True)
class Weighted:
    """Cosines clamped at zero: another affinity for the same solver."""

    matrix: torch.Tensor

    @property
    def degree(self) -> torch.Tensor:
        return self.matrix.sum(1)

    def times(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.matrix

    def double(self) -> Weighted:
        return Weighted(self.matrix.double())

    def dense(self) -> np.ndarray:
        return self.matrix.double().numpy()


@pytest.mark.parametrize(("a", "b"), [(3, 5), (20, 70), (150, 37), (500, 400)])
def test_two_cliques_have_the_closed_form(a: int, b: int) -> None:
    found = solve(cliques(a, b), 1, generator())
    exact = EPS * b / (a + EPS * b) + EPS * a / (b + EPS * a)
    assert (found.steps == 0) == (a + b <= SMALL)
    assert found.values[0] == pytest.approx(exact, abs=1e-12 if found.steps == 0 else 1e-6)
    assert not found.multiple
    y = found.vectors[0].numpy()
    assert np.ptp(y[:a]) <= 1e-5 * abs(y).max()
    assert np.ptp(y[a:]) <= 1e-5 * abs(y).max()
    assert y[0] * y[-1] < 0
    small, large = (0, -1) if a < b else (-1, 0)
    assert y[small] > abs(y[large])  # the smaller side has the larger magnitude, and the sign rule makes it positive
    volume_a, volume_b = a * (a + EPS * b), b * (b + EPS * a)
    assert y[0] / y[-1] == pytest.approx(-volume_b / volume_a, rel=1e-4)


@pytest.mark.parametrize("sizes", [(20, 20, 20), (100, 100, 100), (60, 60, 60, 60)])
def test_equal_cliques_have_no_unique_second_vector(sizes: tuple[int, ...]) -> None:
    assert solve(cliques(*sizes), 1, generator()).multiple


@pytest.mark.parametrize("n", [24, 200])
def test_a_ring_has_no_unique_second_vector(n: int) -> None:
    place = np.arange(n)
    apart = np.minimum((place[:, None] - place) % n, (place - place[:, None]) % n)
    ring = BinaryAffinity.from_edges(torch.from_numpy((apart <= n // 6).astype(np.float32)), EPS)
    found = solve(ring, 1, generator())
    assert found.multiple
    values, _ = reference(ring.dense(), 1)
    np.testing.assert_allclose(found.values, values, atol=1e-10)


def test_complete_and_empty_graphs_have_the_closed_form() -> None:
    n = 130
    complete = BinaryAffinity.from_edges(torch.ones(n, n), EPS)
    empty = BinaryAffinity.from_edges(torch.eye(n), EPS)
    assert (complete.density, empty.density) == (1.0, 0.0)
    found = solve(complete, 1, generator())
    assert found.multiple
    np.testing.assert_allclose(found.values, 1, atol=1e-9)
    found = solve(empty, 1, generator())
    assert found.multiple
    np.testing.assert_allclose(found.values, n * EPS / (1 + (n - 1) * EPS), atol=1e-9)


def test_one_far_token_among_many_is_found() -> None:
    edges = torch.ones(300, 300)
    edges[7], edges[:, 7] = 0, 0
    edges[7, 7] = 1
    found = solve(BinaryAffinity.from_edges(edges, EPS), 1, generator())
    assert int(found.vectors[0].argmax()) == 7
    assert (found.vectors[0] > 0).sum() == 1


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(5, 24), st.integers(5, 24), st.integers(1, 4))
def test_agrees_with_the_dense_solver(seed: int, h: int, w: int, pairs: int) -> None:
    tokens = scene(h, w, seed).reshape(h * w, -1)
    affinity = BinaryAffinity.of(torch.from_numpy(tokens), 0.2, EPS)
    dense = graph(unit_rows(torch.from_numpy(tokens)).numpy(), 0.2, EPS)
    assert (affinity.dense() > 0.5).sum() == pytest.approx((dense > 0.5).sum(), abs=4)  # a cosine of 0.2 may round
    values, vectors = reference(affinity.dense(), pairs)
    found = solve(affinity, pairs, generator(seed))
    np.testing.assert_allclose(found.values[:pairs], values[:pairs], atol=2e-4)
    degree = affinity.degree.double().numpy()
    y = found.vectors.double().numpy()
    np.testing.assert_allclose((y * degree) @ y.T, np.eye(pairs), atol=0.02)
    np.testing.assert_allclose((y * degree).sum(1), 0, atol=1e-4 * degree.sum() ** 0.5)
    gaps = np.diff(np.concatenate([[0], values]))
    if gaps[1 : pairs + 1].min(initial=1) > 1e-3:  # the vectors are determined
        cosines = np.abs(((y * degree) @ vectors.T).diagonal())
        assert cosines.min() >= 1 - 2 * 0.02**2


@pytest.mark.parametrize("seed", range(5))
def test_another_affinity_and_many_pairs(seed: int) -> None:
    unit = unit_rows(torch.from_numpy(scene(15, 22, seed).reshape(330, -1)))
    affinity = Weighted((unit @ unit.T).clamp_min(0))
    values, _ = reference(affinity.dense(), 6)
    found = solve(affinity, 6, generator())
    np.testing.assert_allclose(found.values[:6], values[:6], atol=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_the_spectral_embedding_of_scikit_learn(seed: int) -> None:
    """scikit-learn leaves self-loops out, so the comparison is on a graph without them."""
    manifold = pytest.importorskip("sklearn.manifold")
    edges = BinaryAffinity.of(torch.from_numpy(scene(13, 16, seed).reshape(208, -1)), 0.2, EPS).dense()
    np.fill_diagonal(edges, 0)
    found = solve(Weighted(torch.from_numpy(edges).float()), 1, generator())
    theirs = manifold.spectral_embedding(edges, n_components=1, random_state=0, drop_first=True)[:, 0]
    degree = edges.sum(1)
    y = found.vectors[0].double().numpy()
    cosine = abs((y * degree) @ theirs) / np.sqrt((y * degree) @ y * ((theirs * degree) @ theirs))
    assert cosine > 1 - 1e-4


def test_the_start_does_not_matter() -> None:
    affinity = BinaryAffinity.of(torch.from_numpy(scene(20, 30, 3).reshape(600, -1)), 0.2, EPS)
    one, two, again = (solve(affinity, 1, generator(seed)) for seed in (1, 2, 1))
    degree = affinity.degree
    assert float(one.vectors[0] @ (degree * two.vectors[0])) > 1 - 1e-5
    assert torch.equal(one.vectors, again.vectors)


def test_permuted_tokens_give_the_permuted_vector() -> None:
    tokens = torch.from_numpy(scene(16, 16, 5).reshape(256, -1))
    order = torch.randperm(256, generator=torch.Generator().manual_seed(0))
    plain = solve(BinaryAffinity.of(tokens, 0.2, EPS), 1, generator()).vectors[0]
    shuffled = solve(BinaryAffinity.of(tokens[order], 0.2, EPS), 1, generator()).vectors[0]
    sign = torch.sign(plain[order] @ shuffled)
    np.testing.assert_allclose(sign * shuffled, plain[order], atol=2e-3 * float(plain.abs().max()))


def edges_of(tokens: torch.Tensor, tau: float = 0.2) -> np.ndarray:
    return BinaryAffinity.of(tokens, tau, 1e-3).dense() > 0.5


def test_the_graph_is_symmetric_and_sees_no_scale() -> None:
    tokens = torch.from_numpy(scene(20, 33, 1).reshape(660, -1))
    assert len(threshold_strips(unit_rows(tokens), 0.2)) == -(-660 // STRIP)
    edges = edges_of(tokens)
    np.testing.assert_array_equal(edges, edges.T)
    for scale in (2.0**-100, 2.0**100):
        np.testing.assert_array_equal(edges_of(tokens * scale), edges)
    exact = torch.nn.functional.normalize(tokens.double(), dim=1).numpy()
    cosine = exact @ exact.T
    sure = np.abs(cosine - 0.2) > 1e-6
    np.testing.assert_array_equal(edges[sure], (cosine > 0.2)[sure])


def test_times_is_the_matrix() -> None:
    affinity = BinaryAffinity.of(torch.from_numpy(scene(9, 11, 2).reshape(99, -1)), 0.2, 0.01)
    x = torch.from_numpy(generator().standard_normal((3, 99)).astype(np.float32))
    np.testing.assert_allclose(affinity.times(x), x.double().numpy() @ affinity.dense(), atol=1e-4)
    np.testing.assert_allclose(affinity.degree, affinity.dense().sum(1), rtol=1e-6)

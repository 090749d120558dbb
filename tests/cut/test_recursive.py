"""The cut `recursive`: its Ncut values against naive ones, a plain recursion, the published rules, no structure."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.linalg import eigh

from maskmill.cut import _engine, recursive
from maskmill.cut._partition import compact
from maskmill.cut._weighted import WeightedAffinity, scaled_cosines
from maskmill.errors import NumericsError


def scene(
    h: int = 16, w: int = 20, noise: float = 0.4, seed: int = 0, depth: int = 16
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of four regions of their own direction with noise, and the regions 0..3 by their first token."""
    regions = np.zeros((h, w), np.int64)
    regions[:, w // 2 :] = 1
    regions[h // 2 :, w // 4 : w // 2 + 3] = 2
    regions[2 : h // 4, 2 : w // 4] = 3
    regions = compact(regions.ravel()).reshape(h, w)
    rng = np.random.default_rng(seed)
    tokens = np.eye(depth)[regions] + noise / np.sqrt(depth) * rng.standard_normal((h, w, depth))
    return tokens.astype(np.float32), regions


def plain(tokens: np.ndarray, tau: float, alpha: float, drop_zeros: bool) -> np.ndarray:
    """The recursion of the paper with dense float64 solvers: groups [n], numbered by their first token.

    drop_zeros: tokens with a zero in their row are in no graph but the first, and follow the lower side.
    """
    unit = tokens.reshape(-1, tokens.shape[-1]).astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    cosine = unit @ unit.T
    scaled = (cosine - cosine.min()) / (cosine.max() - cosine.min())
    matrix, zeros = scaled**alpha, (scaled <= 1e-12).any(1)
    labels = np.zeros(len(unit), np.int64)

    def split(part: np.ndarray, first: bool) -> None:
        kept = part if first or not drop_zeros else part[~zeros[part]]
        if len(kept) < 2:
            return
        graph = matrix[np.ix_(kept, kept)]
        degree = np.diag(graph.sum(1))
        y = eigh(degree - graph, degree, subset_by_index=[1, 1])[1][:, 0]
        y *= np.sign(y[np.abs(y).argmax()])
        sides = [y > place for place in np.linspace(0.99 * y.min(), 0.99 * y.max(), 100)]
        costs = [naive_ncut(graph, side) for side in sides]
        if min(costs) >= tau:
            return
        above = kept[sides[int(np.argmin(costs))]]
        labels[above] = labels.max() + 1
        split(above, False)
        split(np.setdiff1d(part, above), False)

    split(np.arange(len(unit)), True)
    return compact(labels)


def naive_ncut(matrix: np.ndarray, side: np.ndarray) -> float:
    cut = matrix[side][:, ~side].sum()
    return float(cut / matrix[side].sum() + cut / matrix[~side].sum())


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 9))
def test_ncut_of_all_thresholds_is_the_naive_one(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    matrix = rng.random((12, 12)).astype(np.float32)
    matrix += matrix.T
    level = rng.integers(0, count + 1, 12)
    found = recursive.nested_ncuts(WeightedAffinity.of(torch.from_numpy(matrix)), level, count)
    for i, value in enumerate(found):
        side = level > i
        assert value == (pytest.approx(naive_ncut(matrix, side), rel=1e-5) if 0 < side.sum() < 12 else np.inf)


@pytest.mark.parametrize("compat", [None, "diffcut"])
@pytest.mark.parametrize("tau", [0.3, 0.5, 0.7])
def test_it_is_the_plain_recursion(tau: float, compat: str | None) -> None:
    tokens = scene(8, 10, noise=0.7, seed=1)[0]
    params = recursive.Params(tau=tau, assign="cut", segments=254, compat=compat)
    found, _ = recursive.cut(tokens, params, 0, "a")
    expected = plain(tokens, tau, params.alpha, compat is not None)
    np.testing.assert_array_equal(found.ravel(), expected + 1)


def test_regions_are_found() -> None:
    tokens, regions = scene()
    found, diagnostics = recursive.cut(tokens, recursive.Params(), 0, "a")
    np.testing.assert_array_equal(found, regions + 1)
    assert found.dtype == np.uint8
    assert diagnostics["scores"].shape == (64,)
    assert (diagnostics["scores"][:4] > 0.5).all()
    assert diagnostics["last"] < 0.5
    again, _ = recursive.cut(tokens, recursive.Params(), 0, "a")
    np.testing.assert_array_equal(again, found)


def test_recursion_stops_at_the_price_and_at_the_number() -> None:
    tokens, _ = scene()
    two, diagnostics = recursive.cut(tokens, recursive.Params(segments=2), 0, "a")
    assert two.max() == diagnostics["groups"] == 2
    one, diagnostics = recursive.cut(tokens, recursive.Params(tau=1e-6), 0, "a")
    assert (one == 1).all()
    assert diagnostics["last"] == diagnostics["confidence"] == 0


def test_a_token_joins_the_mean_that_is_most_like_it() -> None:
    unit = torch.tensor([[1.0, 0.0], [0.96, 0.28], [0.0, 1.0], [0.28, 0.96]])
    assert recursive.by_prototypes(unit, np.array([0, 0, 1, 0])).tolist() == [0, 0, 1, 1]


def test_tokens_of_the_most_unlike_pair_are_cut_on() -> None:
    """In the published code they are in no graph but the first one, and so keep the side that they had there."""
    tokens, regions = scene()
    matrix = scaled_cosines(torch.from_numpy(tokens.reshape(-1, 16)), 10.0)
    assert matrix is not None
    pair = (matrix == 0).any(1).numpy().reshape(regions.shape)
    assert pair.sum() >= 2
    ours = recursive.cut(tokens, recursive.Params(assign="cut"), 0, "a")[0]
    published = recursive.cut(tokens, recursive.Params(assign="cut", compat="diffcut"), 0, "a")[0]
    np.testing.assert_array_equal(ours, regions + 1)
    np.testing.assert_array_equal(published[~pair], ours[~pair])


def test_objects_are_what_avoids_the_border() -> None:
    tokens, regions = scene()
    found, diagnostics = recursive.cut(tokens, recursive.Params(keep="objects"), 0, "a")
    assert found[regions == regions[3, 3]].all()
    assert 0 < found.max() < diagnostics["groups"] == 4
    assert not diagnostics["scores"][found.max() :].any()


@pytest.mark.parametrize("shape", [(1, 2), (1, 9), (9, 1), (3, 40)])
@pytest.mark.parametrize("compat", [None, "diffcut"])
def test_any_grid(shape: tuple[int, int], compat: str | None) -> None:
    tokens = np.random.default_rng(0).standard_normal((*shape, 5)).astype(np.float32)
    found, diagnostics = recursive.cut(tokens, recursive.Params(compat=compat), 0, "a")
    assert found.shape == shape
    assert sorted(np.unique(found)) == list(range(1, found.max() + 1))
    assert all(np.isfinite(value).all() for value in diagnostics.values())


@pytest.mark.parametrize(
    ("tokens", "outcome"),
    [(np.ones((1, 1, 5), np.float32), "one token"), (np.full((6, 7, 5), 0.4, np.float32), "no structure")],
)
def test_no_structure_is_said_and_not_drawn(tokens: np.ndarray, outcome: str) -> None:
    found, diagnostics = recursive.cut(tokens, recursive.Params(), 0, "a")
    assert diagnostics["outcome"] == recursive.TRAITS.outcomes[outcome]
    assert diagnostics["confidence"] == 0
    assert not found.any()
    normal = recursive.cut(scene()[0], recursive.Params(), 0, "a")[1]
    assert {k: np.shape(v) for k, v in diagnostics.items()} == {k: np.shape(v) for k, v in normal.items()}


def test_nan_and_bad_settings_are_named() -> None:
    tokens, _ = scene()
    tokens[0, 0, 0] = np.inf
    with pytest.raises(NumericsError, match="cat/1: 1 of 320 tokens"):
        recursive.cut(tokens, recursive.Params(), 0, "cat/1")
    with pytest.raises(ValidationError, match="tau"):
        recursive.Params(tau=0)
    with pytest.raises(ValidationError, match="alpha"):
        recursive.Params(alpha=30.1)


def test_the_largest_alpha_needs_no_dense_solver(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of tokens without any structure, the worst case: nearly all weights are close to zero."""
    dense = _engine._dense

    def small(affinity: Any, pairs: int) -> Any:
        assert len(affinity.degree) <= _engine.SMALL
        return dense(affinity, pairs)

    monkeypatch.setattr(_engine, "_dense", small)
    tokens = np.random.default_rng(1).standard_normal((20, 20, 16)).astype(np.float32)
    found, _ = recursive.cut(tokens, recursive.Params(alpha=30), 0, "a")
    assert found.max() > 1

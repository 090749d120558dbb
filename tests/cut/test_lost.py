"""LOST against a plain float64 LOST, its ties and degenerate graphs."""

from __future__ import annotations

import numpy as np
import pytest
import reference_lost as plain
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from reference_ncut import scene
from scipy import ndimage

from maskmill.cut import lost
from maskmill.errors import ConfigError, NumericsError
from maskmill.recipe import registry
from maskmill.recipe.base import validate

PARAMS = lost.Params()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(4, 22), st.integers(4, 22), st.sampled_from([1, 20, 100, 1000]))
def test_lost_is_lost(seed: int, h: int, w: int, k: int) -> None:
    tokens = scene(h, w, seed)
    expected, _, tied = plain.lost(tokens, k)
    assume(not tied)
    found, diagnostics = lost.cut(tokens, lost.Params(k=k), 0, "a")
    np.testing.assert_array_equal(found, expected)
    assert 0 <= diagnostics["confidence"] <= 1
    assert 1 <= diagnostics["friends"] <= min(k, h * w)


def test_degrees_and_friends_are_counted_as_described() -> None:
    tokens = scene(9, 11, 2)
    flat = tokens.reshape(99, -1).astype(np.float64)
    gram = flat @ flat.T
    degree = ((gram > 0) & ~np.eye(99, dtype=bool)).sum(1)
    found, diagnostics = lost.cut(tokens, lost.Params(k=10), 0, "a")
    assert 0 < found.mean() < 1
    assert diagnostics["density"] == pytest.approx(degree.sum() / (99 * 98))
    assert diagnostics["degree"] == pytest.approx(degree.min() / 98)
    inside, outside = degree[found.ravel() == 1].mean(), degree[found.ravel() == 0].mean()
    assert diagnostics["confidence"] == pytest.approx(np.clip(1 - inside / outside, 0, 1), abs=1e-6)
    _, count = ndimage.label(found)
    assert count == 1


def test_products_are_not_normalised() -> None:
    """Long keys weigh more in the expansion; degrees see no length."""
    changed = compared = 0
    for seed in range(20):
        tokens = scene(9, 12, seed)
        longer = tokens * np.random.default_rng(seed).uniform(0.1, 10, (9, 12, 1)).astype(np.float32)
        expected, _, tied = plain.lost(longer, 20)
        (found, one), (before, two) = (lost.cut(x, lost.Params(k=20), 0, "a") for x in (longer, tokens))
        assert one["density"] == two["density"]
        if not tied:
            compared += 1
            np.testing.assert_array_equal(found, expected)
            changed += bool((found != before).any())
    assert compared >= 3
    assert changed


@pytest.mark.parametrize("scale", [2.0**-100, 1e-6, 1e6, 2.0**100])
def test_scaled_tokens_give_the_same_mask(scale: float) -> None:
    tokens = scene(12, 17, 4)
    expected, _ = lost.cut(tokens, PARAMS, 0, "a")
    np.testing.assert_array_equal(lost.cut(tokens * np.float32(scale), PARAMS, 0, "a")[0], expected)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_a_flipped_image_has_the_flipped_mask_with_ties_too(seed: int) -> None:
    tokens = scene(11, 15, seed)
    expected, _ = lost.cut(tokens, PARAMS, 0, "a")
    np.testing.assert_array_equal(lost.cut(tokens[:, ::-1], PARAMS, 0, "a")[0], expected[:, ::-1])
    np.testing.assert_array_equal(lost.cut(tokens.transpose(1, 0, 2), PARAMS, 0, "a")[0], expected.T)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_permuted_tokens_have_the_permuted_order(seed: int) -> None:
    import torch

    rng = np.random.default_rng(seed)
    tokens = scene(8, 9, seed).reshape(72, -1)
    shuffle = rng.permutation(72)
    gram = tokens.astype(np.float64) @ tokens.T
    degree = ((gram > 0) & ~np.eye(72, dtype=bool)).sum(1).astype(float)
    order = lost._by_degree(torch.from_numpy(tokens), degree)
    again = lost._by_degree(torch.from_numpy(tokens[shuffle]), degree[shuffle])
    np.testing.assert_array_equal(shuffle[again], order)


def test_equal_tokens_are_taken_row_by_row() -> None:
    tokens = np.zeros((6, 12, 3), np.float32)
    tokens[..., 0] = 1
    for left in (2, 8):  # two equal objects that resemble each other: the first is the seed, the second its friend
        tokens[2:4, left : left + 2] = [0, 1, 0]
    found, diagnostics = lost.cut(tokens, PARAMS, 0, "a")
    expected = np.zeros((6, 12))
    expected[2:4, 2:4] = 1
    np.testing.assert_array_equal(found, expected)
    assert diagnostics["friends"] == 8


def degenerate() -> dict[str, np.ndarray]:
    ring = np.array([[np.cos(a), np.sin(a)] for a in np.arange(39) * 2 * np.pi / 39], np.float32)
    zero = scene(6, 6, 0)
    zero[3, 3] = 0
    return {
        "one token": np.ones((1, 1, 5), np.float32),
        "all joined": np.full((9, 12, 5), 0.3, np.float32),
        "none joined": np.eye(30, dtype=np.float32).reshape(5, 6, 30),
        "equal degrees": ring.reshape(3, 13, 2),
        "no seed": zero,
    }


@pytest.mark.parametrize("outcome", list(degenerate()))
def test_no_structure_is_said_and_not_drawn(outcome: str) -> None:
    found, diagnostics = lost.cut(degenerate()[outcome], PARAMS, 0, "a")
    assert diagnostics["outcome"] == lost.TRAITS.outcomes[outcome]
    assert diagnostics["confidence"] == 0
    assert not found.any()
    assert set(diagnostics) == set(lost.cut(scene(6, 6, 0), PARAMS, 0, "a")[1])


def test_bad_input_is_named() -> None:
    tokens = scene(5, 6, 0)
    tokens[2, 3, 1] = np.nan
    with pytest.raises(NumericsError, match="cat/007: 1 of 30 tokens"):
        lost.cut(tokens, PARAMS, 0, "cat/007")
    with pytest.raises(ConfigError, match=r"cut\.k"):
        validate(registry.load("cut", "lost").Params, {"k": 0}, "config.yaml", "cut")

"""The cut `primaps`: principal directions, masks one after the other, the vote, symmetries, no structure."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maskmill.cut import primaps
from maskmill.errors import NumericsError
from maskmill.numerics import principal

PLAIN = primaps.Params(vote=False, covered=1.0)


def picture(noise: float = 0.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Tokens [12, 16, 9] of three things at right angles, and the things 0, 1, 2, the largest 0."""
    things = np.zeros((12, 16), np.int64)
    things[2:8, 9:15], things[7:11, 1:6] = 1, 2
    tokens = np.eye(9)[things] + noise * np.random.default_rng(seed).standard_normal((12, 16, 9))
    return tokens.astype(np.float32), things


def same_partition(a: np.ndarray, b: np.ndarray) -> bool:
    pairs = np.unique(np.stack([a.ravel(), b.ravel()]), axis=1)
    return pairs.shape[1] == len(np.unique(a)) == len(np.unique(b))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 30), st.integers(2, 12))
def test_the_direction_is_the_first_singular_vector(seed: int, m: int, d: int) -> None:
    x = np.random.default_rng(seed).standard_normal((m, d)) * np.linspace(3, 1, d) + 2
    _, values, rows = np.linalg.svd(x - x.mean(0), full_matrices=False)
    if len(values) > 1 and values[1] > 0.98 * values[0]:
        return
    assert abs(principal.principal_direction(x) @ rows[0]) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("shape", [(90, 200), (200, 90), (90, 70)])
def test_the_direction_of_many_tokens_is_that_of_all_eigenvectors(shape: tuple[int, int]) -> None:
    x = np.random.default_rng(0).standard_normal(shape) * np.linspace(2, 1, shape[1]) ** 3 + 1
    _, _, rows = np.linalg.svd(x - x.mean(0), full_matrices=False)
    assert min(shape) > principal.DENSE
    assert abs(principal.principal_direction(x) @ rows[0]) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.6])
def test_masks_of_fewer_tokens_than_dimensions_are_the_same(noise: float) -> None:
    """Dimensions of zeros change no product of tokens."""
    x = picture(noise, 5)[0].reshape(-1, 9).astype(np.float64)
    labels, cosines = principal.masks_of(x, PLAIN)
    wide, wide_cosines = principal.masks_of(np.pad(x, ((0, 0), (0, 300))), PLAIN)
    np.testing.assert_array_equal(labels, wide)
    np.testing.assert_allclose(cosines, wide_cosines, atol=1e-12)
    left = np.arange(len(x)) % 3 > 0
    direct = x @ principal.principal_direction(x[left])
    along = principal._along(x @ x.T, left)
    np.testing.assert_allclose(np.abs(along), np.abs(direct), atol=1e-6)
    np.testing.assert_allclose(np.abs(principal._along(np.ones((4, 4)), np.ones(4, bool))), 1)


def test_one_token_is_its_own_direction() -> None:
    np.testing.assert_allclose(principal.principal_direction(np.array([[0.0, 3, 4]])), [0, 0.6, 0.8])


def test_things_are_found_one_after_the_other() -> None:
    tokens, things = picture(0.05)
    found, diagnostics = primaps.cut(tokens, PLAIN, 0, "a")
    assert same_partition(found, things)
    assert found.dtype == np.uint8
    assert diagnostics["groups"] == 3
    assert diagnostics["covered"] == 1
    assert diagnostics["scores"].shape == (32,)
    unit = tokens.reshape(-1, 9) / np.linalg.norm(tokens.reshape(-1, 9), axis=1, keepdims=True)
    for mask in (1, 2, 3):
        mean = (unit[found.ravel() == mask] @ unit[found.ravel() == mask].T).mean(0)
        assert mean.min() - 1e-6 <= diagnostics["scores"][mask - 1] <= mean.max() + 1e-6
    assert (diagnostics["scores"][3:] == 0).all()


def test_a_step_is_the_published_one() -> None:
    """pca_lowrank of what is left, the nearest token by cosine, 0.4 of the maximum: up to the sign, which is free."""
    tokens, _ = picture(0.6, 3)
    x = tokens.reshape(-1, 9).astype(np.float64)
    labels, _ = principal.masks_of(x, PLAIN)
    unit = torch.nn.functional.normalize(torch.from_numpy(x), dim=1)
    left = torch.ones(len(x), dtype=torch.bool)
    torch.manual_seed(0)
    for mask in range(1, int(labels.max()) + 1):
        if left.sum() < 6:
            break
        _, _, v = torch.pca_lowrank(torch.from_numpy(x)[left], q=3, niter=100)
        cosine = unit @ v[:, 0]
        cosine = cosine.abs() * left
        alike = (unit @ unit[cosine.argmax()]) * left
        joins = left & (alike >= 0.4 * alike.max())
        np.testing.assert_array_equal(joins.numpy(), labels == mask)
        left &= ~joins


def test_it_stops_when_enough_is_covered_and_at_the_number() -> None:
    tokens, _ = picture(0.05)
    _, diagnostics = primaps.cut(tokens, PLAIN.model_copy(update={"covered": 0.8}), 0, "a")
    assert diagnostics["groups"] == 2
    assert 0.8 <= diagnostics["covered"] < 1
    one, diagnostics = primaps.cut(tokens, PLAIN.model_copy(update={"masks": 1}), 0, "a")
    assert one.max() == 1
    assert diagnostics["scores"].shape == (1,)


def test_the_vote_is_a_median_of_each_mask() -> None:
    labels = np.random.default_rng(0).integers(0, 4, (11, 14))
    labels[2:7, 3:9] = 2
    voted = principal.majority(labels)
    padded = np.pad(labels, 1, mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3)).reshape(11, 14, 9)
    for mask in (1, 2, 3):
        np.testing.assert_array_equal(voted == mask, np.median(windows == mask, axis=2) == 1)


def test_masks_that_the_vote_empties_have_no_number() -> None:
    tokens, _ = picture(0.02)
    tokens[0, 0] = tokens[11, 15] = np.eye(9, dtype=np.float32)[7] * 30  # the strongest direction, two lone tokens
    found, diagnostics = primaps.cut(tokens, primaps.Params(), 0, "a")
    assert sorted(set(np.unique(found)) - {0}) == [1, 2, 3]
    assert int(primaps.cut(tokens, PLAIN, 0, "a")[0].max()) == 4  # without the vote the two tokens have a mask
    assert diagnostics["groups"] == 3
    assert np.count_nonzero(diagnostics["scores"]) == 3


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6))
def test_scale_sign_flip_and_order_change_nothing(seed: int) -> None:
    tokens, _ = picture(0.3, seed)
    plain, _ = primaps.cut(tokens, PLAIN, 0, "a")
    np.testing.assert_array_equal(primaps.cut(tokens * np.float32(1e-20), PLAIN, 0, "a")[0], plain)
    np.testing.assert_array_equal(primaps.cut(-tokens, PLAIN, 0, "a")[0], plain)
    np.testing.assert_array_equal(primaps.cut(tokens[:, ::-1], PLAIN, 1, "b")[0], plain[:, ::-1])
    order = np.random.default_rng(seed).permutation(192)
    shuffled, _ = primaps.cut(tokens.reshape(192, 9)[order].reshape(12, 16, 9), PLAIN, 0, "a")
    np.testing.assert_array_equal(shuffled.ravel(), plain.ravel()[order])


@pytest.mark.parametrize("shape", [(1, 7), (7, 1), (2, 2), (3, 30)])
def test_any_grid(shape: tuple[int, int]) -> None:
    tokens = np.random.default_rng(0).standard_normal((*shape, 8)).astype(np.float32)
    found, diagnostics = primaps.cut(tokens, primaps.Params(), 0, "a")
    assert found.shape == shape
    assert all(np.isfinite(value).all() for value in diagnostics.values())
    assert 0 <= diagnostics["confidence"] <= 1


@pytest.mark.parametrize(
    ("tokens", "outcome"),
    [
        (np.ones((1, 1, 5), np.float32), "one token"),
        (np.full((6, 7, 5), 0.4, np.float32), "no structure"),
        (np.zeros((6, 7, 5), np.float32), "no structure"),
    ],
)
def test_no_structure_is_said_and_not_drawn(tokens: np.ndarray, outcome: str) -> None:
    found, diagnostics = primaps.cut(tokens, primaps.Params(), 0, "a")
    assert diagnostics["outcome"] == primaps.TRAITS.outcomes[outcome]
    assert diagnostics["confidence"] == 0
    assert not found.any()
    normal = primaps.cut(picture()[0], primaps.Params(), 0, "a")[1]
    assert {k: np.shape(v) for k, v in diagnostics.items()} == {k: np.shape(v) for k, v in normal.items()}


def test_nan_is_named() -> None:
    tokens, _ = picture()
    tokens[0, 0, 0] = np.nan
    with pytest.raises(NumericsError, match="cat/1: 1 of 192 tokens"):
        primaps.cut(tokens, primaps.Params(), 0, "cat/1")

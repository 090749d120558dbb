"""The cut `attention`: where the cls token looks, who votes, which component, no object."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskmill.cut import attention
from maskmill.errors import NumericsError

QUERY = np.array([[4.0, 0, 0], [4, 0, 0]], np.float32)  # two heads that look for the first direction


def keys(noise: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Keys [10, 12, 6] of two equal things on a background that points away from them, and both things' mask."""
    mask = np.zeros((10, 12), bool)
    mask[2:5, 2:6] = mask[6:9, 8:11] = True
    tokens = np.where(mask[..., None], [1, 0, 0.2], [-0.5, 0.4, 0]).astype(np.float32)
    tokens[3, 3, 0] = 1.5  # looked at most
    tokens = np.concatenate([tokens, tokens], 2)
    return tokens + np.float32(noise) * np.random.default_rng(0).standard_normal(tokens.shape).astype(np.float32), mask


@pytest.mark.parametrize("scores", ["softmax", "product"])
def test_the_component_of_the_seed_is_the_object(scores: str) -> None:
    tokens, mask = keys(0.05)
    found, diagnostics = attention.cut(tokens, attention.Params(scores=scores), 0, "a", QUERY)
    expected = mask.copy()
    expected[6:] = False  # the other thing is not connected
    np.testing.assert_array_equal(found, expected)
    weights = np.exp(tokens.reshape(120, 2, 3).astype(float) @ [4, 0, 0] / np.sqrt(3))
    share = (weights / weights.sum(0)).mean(1).reshape(10, 12)
    assert diagnostics["mass"] == pytest.approx(share[expected].sum())
    assert diagnostics["confidence"] == pytest.approx(share[expected].sum() - expected.mean())
    assert diagnostics["scores"] == pytest.approx([diagnostics["confidence"]])
    assert found.dtype == np.uint8


def test_the_bias_of_the_keys_does_not_change_the_attention() -> None:
    tokens, _ = keys(0.3)
    flat = tokens.reshape(120, 6)
    plain = attention.softmax(attention.cls_logits(flat, QUERY))
    biased = attention.softmax(attention.cls_logits(flat + np.arange(6, dtype=np.float32), QUERY))
    np.testing.assert_allclose(plain.sum(1), 1)
    np.testing.assert_allclose(biased, plain, atol=1e-6)


def test_proposals_by_mass_and_by_share() -> None:
    rank = np.array([0.1, 0.4, 0.05, 0.3, 0.1, 0.05])
    assert attention.propose_attended(rank, 1.0, 0.5).tolist() == [1, 3]
    assert attention.propose_attended(rank, 1.0, 0.75).tolist() == [1, 3, 0]  # equal ones in the order of the grid
    assert attention.propose_attended(rank, 0.34, 1.0).tolist() == [1, 3]
    assert attention.propose_attended(rank, 0.01, 0.01).tolist() == [1]
    assert len(attention.propose_attended(rank, 1.0, 1.0)) == 6


def test_the_defaults_are_the_published_ones() -> None:
    params = attention.Params()
    assert (params.scores, params.heads, params.mass, params.share) == ("product", 5, 0.5, 0.4)


def test_products_below_half_of_their_sum_are_proposed_last() -> None:
    rank = np.array([1.0] * 10 + [7, 9, 8] + [1.0] * 7)  # 17 ones are 0.41 of the sum: with the 7 it is above half
    assert attention.propose_products(rank, 0.15, 0.5).tolist() == [11, 12, 10]
    assert attention.propose_products(rank, 0.4, 0.5).tolist() == [11, 12, 10, 0, 1, 2, 3, 4]
    assert attention.propose_products(rank[[10, 11, 12, 0, 0, 0]], 1.0, 0.5).tolist() == [1, 2, 0, 3, 4, 5]
    assert attention.propose_products(np.array([-3.0, -1, -2]), 0.7, 1.0).tolist() == [1, 2]


def test_a_score_without_mass_comes_before_a_negative_one() -> None:
    """The published code multiplies by 0 or 1, so that what it takes away outranks negative scores."""
    rank = np.array([-5.0, 2, -1, -4, -2])  # from the lowest: -5, -9, -11, -12, -10 of -10: 0.5, 0.9, 1.1, 1.2, 1.0
    assert attention.propose_products(rank, 1.0, 0.5).tolist() == [1, 0, 2, 4, 3]


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 40), st.floats(0.05, 1), st.floats(0.05, 0.95), st.floats(-2, 2), st.integers(0, 2**31))
def test_products_are_proposed_as_written_out(n: int, share: float, mass: float, shift: float, seed: int) -> None:
    rank = np.random.default_rng(seed).standard_normal(n) + shift
    total = sum(rank)
    score = {}
    for i, value in enumerate(rank):
        held = sum(other for other in rank if other <= value) / total
        score[i] = value if held > 1 - mass else 0.0
    best = sorted(range(n), key=lambda i: (-score[i], i))[: max(1, int(share * n))]
    assert attention.propose_products(rank, share, mass).tolist() == best


def test_the_mass_decides_who_votes() -> None:
    tokens, _ = keys(0.8)
    voters = [attention.cut(tokens, attention.Params(mass=mass), 0, "a", QUERY)[1]["sources"] for mass in (0.5, 1.0)]
    flat = tokens.reshape(120, 6)
    rank = attention.cls_logits(flat, QUERY).mean(0)
    for mass, found in zip((0.5, 1.0), voters, strict=True):
        proposed = attention.propose_products(rank, 0.4, mass)
        assert found == (flat[proposed] @ flat[proposed[0]] > 0).sum()
    assert voters[0] != voters[1]


def test_only_the_first_heads_choose_the_seed() -> None:
    tokens, mask = keys()
    query = QUERY.copy()
    query[1] = [-30, 0, 0]  # looks at the background, hard
    one, _ = attention.cut(tokens, attention.Params(heads=1), 0, "a", query)
    assert (one[2:5, 2:6] == 1).all()
    both, _ = attention.cut(tokens, attention.Params(scores="product"), 0, "a", query)
    assert not both[mask].any()


def test_patches_vote_for_those_that_point_their_way() -> None:
    """A patch joins when the sum of the sources points its way, not when the seed alone does."""
    tokens = np.full((5, 9, 2), [-1, -0.2], np.float32)
    tokens[2, 1:4] = [[1, 0.6], [1, 1.2], [1, 1.2]]
    tokens[2, 4] = [-0.55, 1]  # the seed (1, 0.6) says 0.05; the second and third say more
    tokens[2, 5] = [-0.7, 0.6]  # the seed says no, all together say: -0.7 * 3 + 0.6 * 3 < 0
    query = np.array([[5.0, -2]], np.float32)
    found, diagnostics = attention.cut(tokens, attention.Params(scores="product", share=3 / 45), 0, "a", query)
    assert diagnostics["sources"] == 3
    assert np.argwhere(found).tolist() == [[2, 1], [2, 2], [2, 3], [2, 4]]


def test_a_flipped_image_has_the_flipped_mask() -> None:
    tokens, _ = keys(0.2)
    plain, _ = attention.cut(tokens, attention.Params(), 0, "a", QUERY)
    np.testing.assert_array_equal(attention.cut(tokens[:, ::-1], attention.Params(), 0, "a", QUERY)[0], plain[:, ::-1])


@pytest.mark.parametrize(
    ("tokens", "outcome"),
    [
        (np.ones((1, 1, 6), np.float32), "one token"),
        (np.full((4, 5, 6), 0.3, np.float32), "even attention"),
        (np.zeros((4, 5, 6), np.float32), "even attention"),
        (np.abs(np.random.default_rng(0).random((4, 5, 6))).astype(np.float32), "no object"),
    ],
)
def test_no_object_is_said_and_not_drawn(tokens: np.ndarray, outcome: str) -> None:
    found, diagnostics = attention.cut(tokens, attention.Params(), 0, "a", QUERY)
    assert diagnostics["outcome"] == attention.TRAITS.outcomes[outcome]
    assert diagnostics["confidence"] == 0
    assert not found.any()
    normal = attention.cut(keys()[0], attention.Params(), 0, "a", QUERY)[1]
    assert {k: np.shape(v) for k, v in diagnostics.items()} == {k: np.shape(v) for k, v in normal.items()}


def test_nan_is_named() -> None:
    tokens, _ = keys()
    tokens[0, 0, 0] = np.nan
    with pytest.raises(NumericsError, match="cat/1: 1 of 120 tokens"):
        attention.cut(tokens, attention.Params(), 0, "cat/1", QUERY)

"""The cut `felzenszwalb`: the paper's predicate by a plain reference, limits on parts, flat images, bad tokens."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskmill.cut import felzenszwalb
from maskmill.cut._joins import neighbour_edges
from maskmill.errors import NumericsError


def colours(h: int, w: int, seed: int = 0, levels: int = 6) -> np.ndarray:
    """Tokens of the backbone `colour`: blocks of few colours, with noise."""
    draws = np.random.default_rng(seed)
    blocks = draws.random((levels, 3))[draws.integers(0, levels, (-(-h // 3), -(-w // 3)))]
    rgb = np.kron(blocks, np.ones((3, 3, 1)))[:h, :w] + 0.03 * draws.standard_normal((h, w, 3))
    return np.concatenate([rgb, np.zeros((h, w, 2))], 2).astype(np.float32)


def naive(features: np.ndarray, scale: float, smallest: int) -> np.ndarray:
    """Sets of tokens, and for every edge the definitions of the paper."""
    h, w, _ = features.shape
    first, second, distance = neighbour_edges(features)
    order = np.argsort(distance, kind="stable")
    member = list(range(h * w))
    parts = {i: {i} for i in member}
    within = dict.fromkeys(member, 0.0)

    def join(a: int, b: int) -> None:
        parts[a] |= parts[b]
        for token in parts.pop(b):
            member[token] = a

    for e in order:
        a, b = member[first[e]], member[second[e]]
        if a != b and distance[e] <= min(within[part] + scale / len(parts[part]) for part in (a, b)):
            join(a, b)
            within[a] = distance[e]  # edges ascend: the largest of its minimum spanning tree
    for e in order:
        a, b = member[first[e]], member[second[e]]
        if a != b and min(len(parts[a]), len(parts[b])) < smallest:
            join(a, b)
    return np.unique(member, return_inverse=True)[1].reshape(h, w)


def same(a: np.ndarray, b: np.ndarray) -> bool:
    pairs = np.unique(np.stack([a.ravel(), b.ravel()]), axis=1)
    return pairs.shape[1] == len(np.unique(a)) == len(np.unique(b))


def test_edges_join_each_pair_of_neighbours_once() -> None:
    first, second, _ = neighbour_edges(np.zeros((3, 4, 1)))
    pairs = {frozenset((divmod(int(a), 4), divmod(int(b), 4))) for a, b in zip(first, second, strict=True)}
    assert len(pairs) == len(first) == 3 * 3 + 2 * 4 + 2 * 2 * 3
    assert all(max(abs(a - b) for a, b in zip(*pair, strict=True)) == 1 for pair in pairs)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([0.0, 30.0, 300.0]), st.integers(1, 6))
def test_parts_are_those_of_the_definition(seed: int, scale: float, smallest: int) -> None:
    tokens = colours(9, 11, seed)
    params = felzenszwalb.Params(scale=scale, sigma=0, smallest=smallest)
    found, _ = felzenszwalb.cut(tokens, params, 0, "a", backbone="colour")
    assert same(found, naive(tokens[..., :3].astype(np.float64) * 255, scale, smallest))


def test_parts_are_connected_large_enough_and_numbered_by_their_first_token() -> None:
    from scipy.ndimage import label

    found, diagnostics = felzenszwalb.cut(colours(30, 40), felzenszwalb.Params(smallest=12), 0, "a", backbone="colour")
    ids, first, counts = np.unique(found, return_index=True, return_counts=True)
    assert ids.tolist() == list(range(1, len(ids) + 1))
    assert (np.diff(first) > 0).all()
    assert counts.min() >= 12
    assert all(label(found == i, np.ones((3, 3)))[1] == 1 for i in ids)
    assert diagnostics["groups"] == len(ids)
    assert 0 < diagnostics["confidence"] <= 1


def test_no_more_parts_than_asked_for() -> None:
    noise = np.random.default_rng(0).random((60, 60, 5)).astype(np.float32)
    for most in (254, 10, 1):
        params = felzenszwalb.Params(scale=0, sigma=0, smallest=1, segments=most)
        assert 1 <= felzenszwalb.cut(noise, params, 0, "a", backbone="colour")[0].max() <= most


def test_a_larger_scale_makes_fewer_parts() -> None:
    counts = [
        felzenszwalb.cut(colours(40, 40), felzenszwalb.Params(scale=k, smallest=1), 0, "a", backbone="colour")[0].max()
        for k in (10, 100, 1000)
    ]
    assert counts[0] > counts[1] > counts[2]


def test_tokens_of_a_network_are_compared_by_their_direction() -> None:
    tokens = np.ones((6, 8, 4), np.float32)
    tokens[:, 4:, 0] = -1
    tokens *= np.random.default_rng(0).uniform(1, 9, (6, 8, 1)).astype(np.float32)  # lengths do not matter
    found, _ = felzenszwalb.cut(tokens, felzenszwalb.Params(sigma=0), 0, "a", backbone="vit_small_focus")
    assert (found[:, :4] == 1).all()
    assert (found[:, 4:] == 2).all()


@pytest.mark.parametrize("shape", [(1, 1), (4, 5)])
def test_without_structure_there_is_no_segment(shape: tuple[int, int]) -> None:
    found, diagnostics = felzenszwalb.cut(
        np.full((*shape, 5), 0.5, np.float32), felzenszwalb.Params(), 0, "a", backbone="colour"
    )
    assert not found.any()
    assert diagnostics == {"confidence": 0.0, "groups": 0.0}


def test_a_bad_token_names_the_image() -> None:
    tokens = colours(5, 5)
    tokens[2, 2, 1] = np.nan
    with pytest.raises(NumericsError, match="cat/1"):
        felzenszwalb.cut(tokens, felzenszwalb.Params(), 0, "cat/1", backbone="colour")

"""The cut `hierarchy`: merging and its levels against naive ones, the tree above the leaves, objects, no structure."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from maskmill.cut import hierarchy, maskcut
from maskmill.cut._merging import grown, levels, merged, nested
from maskmill.errors import ConfigError, NumericsError
from maskmill.images.tree import Tree
from maskmill.recipe.base import validate

THRESHOLDS = (0.9, 0.7, 0.5, 0.2, -0.5)
EVERYTHING: dict[str, Any] = {"thresholds": THRESHOLDS, "smallest": 1, "overlap": 1.0, "leaves": 254}


def drawn(h: int, w: int, seed: int, depth: int = 6) -> np.ndarray:
    """Tokens of a few materials with noise: cosines of neighbours lie everywhere between -1 and 1."""
    rng = np.random.default_rng(seed)
    materials = rng.standard_normal((4, depth))
    label = rng.integers(0, 4, (h // 3 + 1, w // 3 + 1)).repeat(3, 0).repeat(3, 1)[:h, :w]
    return (materials[label] + rng.uniform(0.1, 0.8) * rng.standard_normal((h, w, depth))).astype(np.float32)


def naive_levels(tokens: np.ndarray, parts: np.ndarray) -> list[set[frozenset[int]]]:
    """The clusters of every level, as sets of tokens: all pairs of clusters are looked at before each join."""
    h, w, _ = tokens.shape
    flat = tokens.reshape(h * w, -1).astype(np.float64)
    clusters, found = [{i} for i in range(h * w)], []

    def cosine(a: set[int], b: set[int]) -> float:
        near = any(
            parts.flat[i] == parts.flat[j] and abs(i // w - j // w) + abs(i % w - j % w) == 1 for i in a for j in b
        )
        x, y = flat[list(a)].sum(0), flat[list(b)].sum(0)
        return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y)) if near else -9.0

    table = {(i, j): cosine(clusters[i], clusters[j]) for j in range(h * w) for i in range(j)}
    alive = set(range(h * w))
    for threshold in THRESHOLDS:
        while table and max(table.values()) >= threshold:
            i, j = max(table, key=table.__getitem__)
            clusters.append(clusters[i] | clusters[j])
            alive -= {i, j}
            table = {pair: value for pair, value in table.items() if not {i, j} & set(pair)}
            table |= {(k, len(clusters) - 1): cosine(clusters[k], clusters[-1]) for k in alive}
            alive.add(len(clusters) - 1)
        found.append({frozenset(clusters[k]) for k in alive})
    return found


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 7), st.integers(1, 7))
@example(0, 7, 1)
def test_levels_are_those_of_a_naive_merging(seed: int, h: int, w: int) -> None:
    tokens = drawn(h, w, seed)
    parts = np.random.default_rng(seed).integers(0, 2, (h // 2 + 1, w)).repeat(2, 0)[:h].astype(np.int64)
    pairs, cosines, ends = merged(tokens.reshape(h * w, -1), parts.ravel(), w, np.array(THRESHOLDS))
    found = levels(pairs, ends, h * w)
    expected = naive_levels(tokens, parts)
    for labels, clusters in zip(found, expected, strict=True):
        assert {frozenset(np.flatnonzero(labels == name).tolist()) for name in np.unique(labels)} == clusters
    assert len(pairs) == len(cosines) == ends[-1] == h * w - len(expected[-1])


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10**6))
def test_the_nodes_are_the_clusters_of_all_levels(seed: int) -> None:
    tokens = drawn(6, 7, seed)
    params = hierarchy.Params(masks=0, **EVERYTHING)
    segments, found = hierarchy.cut(tokens, params, 0, "a")
    tree = Tree.of(found["parents"], int(segments.max()), "a")
    nodes = {frozenset(np.flatnonzero(mask).tolist()) for mask in tree.masks(segments)}
    assert nodes == set().union(*naive_levels(tokens, np.zeros((6, 7))))
    assert (found["groups"], found["nodes"]) == (tree.leaves, tree.nodes)
    assert found["parents"].shape == found["scores"].shape == (2 * 254 - 1,)
    assert (found["scores"][: tree.nodes] >= 0).all()
    assert not found["scores"][tree.nodes :].any()


@pytest.mark.parametrize("seed", range(4))
def test_whatever_is_left_out_leaves_hold_all_of_their_segments(seed: int) -> None:
    tokens = drawn(12, 15, seed)
    for params in (hierarchy.Params(thresholds=(0.8, 0.5, 0.2)), hierarchy.Params(masks=0, smallest=6, overlap=0.6)):
        segments, found = hierarchy.cut(tokens, params, 0, "a")
        tree = Tree.of(found["parents"], int(segments.max()), "a")
        assert set(np.unique(segments)) - {0} == set(range(1, tree.leaves + 1))
        assert tree.nodes == found["nodes"]
        again, same = hierarchy.cut(tokens, params, 1, "a")
        assert np.array_equal(again, segments) or params.masks  # only MaskCut draws
        assert set(same) == set(found)


def test_objects_are_those_of_maskcut_and_their_scores_are_the_highest() -> None:
    tokens = np.zeros((14, 20, 8), np.float32)
    tokens[..., 0] = 1
    tokens[2:8, 2:8], tokens[9:13, 12:18] = np.eye(8)[1], np.eye(8)[2]
    tokens[2:8, 5:8, 3] = 0.8  # a half of the first one is different
    tokens += 0.02 * np.random.default_rng(0).standard_normal(tokens.shape).astype(np.float32)
    params = hierarchy.Params(thresholds=(0.9, 0.6))
    objects, cuts = maskcut.cut(tokens, maskcut.Params(), 3, "a")
    segments, found = hierarchy.cut(tokens, params, 3, "a")
    tree = Tree.of(found["parents"], int(segments.max()), "a")
    nodes = list(tree.masks(segments))
    places = [next(i for i, node in enumerate(nodes) if np.array_equal(node, objects == k)) for k in (1, 2)]
    assert found["objects"] == cuts["masks"] == 2
    np.testing.assert_allclose(found["scores"][places], 0.5 + cuts["scores"][:2] / 2, rtol=1e-6)
    assert (np.delete(found["scores"][: tree.nodes], places) <= 0.5).all()
    left = np.zeros((14, 20), bool)
    left[2:8, 2:5] = True
    assert any(np.array_equal(node, left) for node in nodes)
    alone, _ = hierarchy.cut(tokens, hierarchy.Params(thresholds=(0.9, 0.6), rest=False, smallest=1), 3, "a")
    assert np.array_equal(alone > 0, objects > 0)


def test_a_cluster_that_is_most_of_its_segment_is_kept_beside_another_one() -> None:
    """Ten tokens, then nine and one: the nine are 0.9 of ten, but the one would leave them without a leaf."""
    clusters = np.array([[0] * 8 + [8, 9], [0] * 9 + [9], [0] * 10])
    parts = np.zeros(10, np.int64)
    above, _, home = nested(clusters, parts, 0, 1, 0.8)
    assert above.tolist() == [-1, 0, 0, 1, 1]
    assert home.tolist() == [3] * 8 + [4, 2]
    above, _, home = nested(clusters[1:], parts, 0, 2, 0.8)
    assert (above.tolist(), home.tolist()) == ([-1], [0] * 10)


def test_tokens_without_a_leaf_join_the_most_similar_one_beside_them() -> None:
    tokens = np.array([[1, 0], [0.9, 0.1], [0.4, 0.6], [0, 1], [0, 1]], np.float32)
    home, above = np.array([1, 0, 0, 2, -1]), np.array([-1, 0, 0])
    leaf = np.array([False, True, True])
    assert grown(tokens, home, above, leaf, 5).tolist() == [1, 1, 2, 2, -1]
    apart = grown(tokens, np.array([1, -1, 0, -1, 2]), above, leaf, 5)  # no wave reaches the third one
    assert apart.tolist() == [1, -1, 2, -1, 2]


def test_too_many_leaves_make_the_smallest_segment_larger() -> None:
    tokens = drawn(16, 16, 5)
    many, _ = hierarchy.cut(tokens, hierarchy.Params(masks=0, thresholds=(0.95, 0.5), smallest=1), 0, "a")
    few, found = hierarchy.cut(tokens, hierarchy.Params(masks=0, thresholds=(0.95, 0.5), smallest=1, leaves=7), 0, "a")
    assert many.max() > 7
    assert few.max() <= 7
    assert found["parents"].shape == (13,)


@pytest.mark.parametrize("masks", [0, 3])
def test_no_structure(masks: int) -> None:
    params = hierarchy.Params(masks=masks, smallest=1)
    names = set(hierarchy.cut(drawn(5, 5, 0), params, 0, "a")[1])
    for tokens in (np.ones((1, 1, 4)), np.full((6, 7, 4), -0.3), np.zeros((6, 7, 4)), drawn(1, 9, 0), drawn(9, 1, 0)):
        segments, found = hierarchy.cut(tokens.astype(np.float32), params, 0, "a")
        assert set(found) == names
        assert segments.shape == tokens.shape[:2]
        assert 0 <= found["confidence"] <= 1
        assert np.isfinite(found["scores"]).all()
        Tree.of(found["parents"], int(segments.max()), "a")
    same, _ = hierarchy.cut(np.full((6, 7, 4), 0.3, np.float32), params, 0, "a")
    assert (same == 1).all()  # all alike: the photo is one segment


def test_settings_and_tokens_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match=r"thresholds: \[0.5, 0.6\]: give falling cosines in -1..1"):
        validate(hierarchy.Params, {"thresholds": [0.5, 0.6]}, "x.yaml", "cut")
    with pytest.raises(ConfigError, match="leaves: 2 is less than masks: 3; raise leaves or lower masks"):
        validate(hierarchy.Params, {"leaves": 2}, "x.yaml", "cut")
    bad = drawn(4, 4, 0)
    bad[1, 2, 0] = np.nan
    with pytest.raises(NumericsError, match="photo: 1 of 16 tokens are NaN"):
        hierarchy.cut(bad, hierarchy.Params(), 0, "photo")

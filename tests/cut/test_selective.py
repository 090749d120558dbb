"""Selective search: greedy grouping by a plain reference, its similarities, HSV, the tree, ranks, bad tokens."""

from __future__ import annotations

import colorsys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskmill.cut import selective
from maskmill.cut._grouping import SIMILARITIES, Regions, Similarity, gradients, grouped, neighbours
from maskmill.errors import ConfigError, NumericsError
from maskmill.images.tree import Tree, most_nodes
from maskmill.recipe import registry
from maskmill.recipe.base import validate

WANTED: list[tuple[Similarity, ...]] = [SIMILARITIES, ("texture", "size", "fill"), ("size",), ("colour", "fill")]


def colours(h: int, w: int, seed: int = 0) -> np.ndarray:
    """Tokens of the backbone `colour`: blocks of few colours, with noise."""
    draws = np.random.default_rng(seed)
    blocks = draws.random((6, 3))[draws.integers(0, 6, (-(-h // 4), -(-w // 4)))]
    rgb = np.kron(blocks, np.ones((4, 4, 1)))[:h, :w] + 0.02 * draws.standard_normal((h, w, 3))
    return np.concatenate([rgb.clip(0, 1), np.zeros((h, w, 2))], 2).astype(np.float32)


def found_of(tokens: np.ndarray, seed: int = 0, name: str = "a", **body: Any) -> tuple[np.ndarray, dict[str, Any]]:
    params = selective.Params(**{"smallest": 4, "scale": 20.0, **body})
    return selective.cut(tokens, params, seed, name, backbone="colour")


def plain(parts: np.ndarray, rgb: np.ndarray, wanted: tuple[Similarity, ...]) -> list[frozenset[int]]:
    """Unions in the order of their making: sets of parts, everything computed anew from the tokens they hold."""
    edges = gradients(rgb)

    def histogram(mask: np.ndarray, values: np.ndarray, bins: int) -> np.ndarray:
        counts = [np.histogram(values[mask][:, c], bins, (0, 1))[0] for c in range(values.shape[2])]
        return np.concatenate(counts) / (mask.sum() * values.shape[2])

    def similar(a: frozenset[int], b: frozenset[int]) -> float:
        first, second = (np.isin(parts, list(each)) for each in (a, b))
        y, x = np.nonzero(first | second)
        box, both = (np.ptp(y) + 1) * (np.ptp(x) + 1), first.sum() + second.sum()
        parts_of = {
            "colour": np.minimum(histogram(first, rgb, 25), histogram(second, rgb, 25)).sum(),
            "texture": np.minimum(histogram(first, edges, 10), histogram(second, edges, 10)).sum(),
            "size": 1 - both / parts.size,
            "fill": 1 - (box - both) / parts.size,
        }
        return float(sum(parts_of[name] for name in wanted))

    touching = neighbours(parts)
    groups = [frozenset([i]) for i in range(len(touching))]
    made = []
    while len(groups) > 1:
        pairs = [
            (similar(a, b), a, b)
            for k, a in enumerate(groups)
            for b in groups[k + 1 :]
            if touching[np.ix_(sorted(a), sorted(b))].any()
        ]
        _, a, b = max(pairs, key=lambda pair: pair[0])
        groups = [each for each in groups if each not in (a, b)] + [a | b]
        made.append(a | b)
    return made


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(WANTED))
def test_the_most_similar_neighbours_are_joined_first(seed: int, wanted: tuple[Similarity, ...]) -> None:
    rgb = colours(12, 16, seed)[..., :3].astype(np.float64)
    draws = np.random.default_rng(seed)
    parts = np.kron(np.arange(12).reshape(3, 4), np.ones((4, 4), int))
    parts = parts[np.sort(draws.integers(0, 12, 12))][:, np.sort(draws.integers(0, 16, 16))]  # of uneven sizes
    parts = np.unique(parts, return_inverse=True)[1].reshape(12, 16)
    count = int(parts.max()) + 1
    parents = grouped(Regions.of(parts, rgb), neighbours(parts), wanted)
    members = Tree(parents, count).members[count:]
    expected = plain(parts, rgb, wanted)
    if wanted == ("size",):  # equal sizes: any order of equal pairs
        assert len(members) == len(expected)
        return
    assert [frozenset(np.flatnonzero(row).tolist()) for row in members] == expected


def test_segments_are_the_leaves_of_one_tree() -> None:
    segments, values = found_of(colours(24, 32))
    count = int(segments.max())
    assert segments.dtype == np.uint8
    assert segments.min() == 1
    assert 2 < count == values["groups"]
    parents = values["parents"]
    assert parents.shape == (most_nodes(254),)
    tree = Tree.of(parents, count, "a")
    assert tree.leaves == count
    assert tree.nodes == 2 * count - 1
    assert (tree.parents == 0).sum() == 1  # the photo
    masks = tree.masks(segments)
    assert masks[-1].all()
    np.testing.assert_array_equal(masks[2], segments == 3)
    scores = values["scores"]
    assert ((scores[: tree.nodes] >= 0) & (scores[: tree.nodes] <= 1)).all()
    assert not scores[tree.nodes :].any()


def test_ranks_come_from_the_seed_and_fall_with_the_place_in_the_hierarchy() -> None:
    tokens = colours(24, 32)
    (one, first), (two, again), (three, other) = found_of(tokens), found_of(tokens), found_of(tokens, 1)
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(one, three)
    np.testing.assert_array_equal(first["scores"], again["scores"])
    assert (first["scores"] != other["scores"]).any()
    draws = [found_of(tokens, seed)[1] for seed in range(60)]
    nodes = 2 * int(one.max()) - 1
    mean = np.mean([each["scores"][:nodes] for each in draws], axis=0)
    expected = 1 - np.arange(nodes, 0, -1) / nodes / 2
    assert np.abs(mean - expected).max() < 0.2


def test_histograms_count_every_token_once_and_merge_by_size() -> None:
    rgb = colours(12, 16)[..., :3].astype(np.float64)
    parts = (np.arange(16) // 4 + np.zeros((12, 1), int)).astype(int)
    regions = Regions.of(parts, rgb)
    np.testing.assert_allclose(regions.colour.sum(1), 1)
    np.testing.assert_allclose(regions.texture.sum(1), 1)
    assert regions.boxes.tolist() == [[0, 4 * i, 12, 4 * i + 4] for i in range(4)]
    assert regions.similarity(0, np.array([1]), ["size"])[0] == 0.5
    assert regions.similarity(0, np.array([1]), ["fill"])[0] == 1
    assert regions.similarity(0, np.array([2]), ["fill"])[0] == 0.75
    whole = Regions.of(np.where(parts == 1, 0, parts) - (parts > 1), rgb)
    regions.merge(0, 1)
    np.testing.assert_allclose(regions.colour[0], whole.colour[0])
    np.testing.assert_allclose(regions.texture[0], whole.texture[0])
    assert regions.sizes[0] == whole.sizes[0]
    assert regions.boxes[0].tolist() == whole.boxes[0].tolist()


def test_hsv_is_that_of_the_standard_library() -> None:
    rgb = np.random.default_rng(0).random((200, 3))
    rgb[:3] = np.array([0.0, 1.0, 0.3])[:, None]
    expected = np.array([colorsys.rgb_to_hsv(*each) for each in rgb.tolist()])
    np.testing.assert_allclose(selective.hsv(rgb), expected, atol=1e-12)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (4, 4)])
def test_a_photo_of_one_colour_has_no_segment(shape: tuple[int, int]) -> None:
    segments, values = found_of(np.full((*shape, 5), 0.4, np.float32))
    assert not segments.any()
    assert not values["parents"].any()
    assert values["confidence"] == 0
    assert Tree.of(values["parents"], 0, "a").nodes == 0


def test_one_part_is_a_root() -> None:
    tokens = colours(8, 8)
    segments, values = found_of(tokens, smallest=64)
    assert segments.tolist() == np.ones((8, 8), int).tolist()
    assert Tree.of(values["parents"], 1, "a").nodes == 1
    assert values["scores"][0] > 0


def test_broken_tokens_and_other_backbones_are_named() -> None:
    tokens = colours(6, 6)
    with pytest.raises(ConfigError, match=r"cut\.features names a set of the backbone 'sift'.*backbone: colour"):
        selective.cut(tokens, selective.Params(), 0, "a", backbone="sift")
    tokens[1, 2, 0] = np.nan
    with pytest.raises(NumericsError, match="cat/007: 1 of 36 tokens"):
        found_of(tokens, name="cat/007")


@pytest.mark.parametrize("body", [{"similarities": []}, {"similarities": ["size", "size"]}, {"segments": 255}])
def test_parameters_out_of_range(body: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"cut.{next(iter(body))}"):
        validate(registry.load("cut", "selective").Params, body, "config.yaml", "cut")

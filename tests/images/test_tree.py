"""Trees of segments: what is a forest, which leaves a node holds, and its mask."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskmill.errors import StoreError
from maskmill.images.tree import Tree, members, most_nodes

PARENTS = np.array([5, 5, 6, 0, 6, 0, 0], np.float32)  # ((1, 2), 3), and 4 alone; room for seven nodes


def test_members_of_a_small_tree() -> None:
    expected = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [1, 1, 0, 0], [1, 1, 1, 0]]
    assert np.array_equal(members(PARENTS, 4), np.array(expected, bool))
    tree = Tree.of(PARENTS, 4, "a")
    assert (tree.nodes, tree.leaves, tree.depths.tolist()) == (6, 4, [2, 2, 1, 0, 1, 0])
    assert np.array_equal(tree.padded(7), PARENTS)


def test_masks_of_nodes_are_unions_of_their_leaves() -> None:
    segments = np.array([[0, 1, 2], [3, 4, 1]], np.uint8)
    masks = Tree.of(PARENTS, 4, "a").masks(segments)
    for leaf in range(1, 5):
        assert np.array_equal(masks[leaf - 1], segments == leaf)
    assert np.array_equal(masks[4], (segments == 1) | (segments == 2))
    assert np.array_equal(masks[5], (segments > 0) & (segments < 4))


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_nested_groups_come_back(leaves: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    parts, groups = [np.eye(leaves, dtype=bool)[i] for i in range(leaves)], []
    while len(parts) > 1 and rng.random() < 0.9:  # join two or three parts at random
        chosen = rng.permutation(len(parts))[: rng.integers(2, 4)]
        groups.append(np.any([parts[i] for i in chosen], axis=0))
        parts = [part for i, part in enumerate(parts) if i not in chosen] + [groups[-1]]
    tree = Tree.of_groups(leaves, [group for group in groups for _ in range(2)])  # what is there makes no node
    assert tree.nodes == leaves + len(groups) <= most_nodes(leaves)
    assert np.array_equal(tree.members[leaves:], np.array(groups, bool).reshape(-1, leaves))
    again = Tree.of(tree.padded(most_nodes(leaves)), leaves, "a")
    assert np.array_equal(again.parents, tree.parents)


def test_groups_that_cut_through_another_are_refused() -> None:
    first, second = np.array([1, 1, 0], bool), np.array([0, 1, 1], bool)
    for groups in ([first, second], [np.zeros(3, bool)], [np.ones(3, bool), first]):
        with pytest.raises(ValueError, match="nested or disjoint"):
            Tree.of_groups(3, groups)


def test_leaves_that_refinement_emptied_and_images_without_segments() -> None:
    assert Tree.of(PARENTS, 2, "a").leaves == 4  # segments 3 and 4 have no cell left
    nothing = Tree.of(np.zeros(7), 0, "a")
    assert (nothing.nodes, nothing.masks(np.zeros((2, 3), np.uint8)).shape) == (0, (0, 2, 3))
    flat = Tree.of(np.zeros(7), 3, "a")
    assert (flat.nodes, flat.leaves) == (3, 3)
    assert most_nodes(0) == 0


@pytest.mark.parametrize(
    ("parents", "largest", "why"),
    [
        ([3, 3.5, 0], 2, "no whole numbers"),
        ([np.nan, 3, 0], 2, "no whole numbers"),
        ([3, 3, 0], 3, "segment 3 is the parent of another"),
        ([3, 0, 0], 2, "inner node 3 has 1 children"),
        ([5, 5, 0, 0, 4], 3, "node 5 has the parent 4, which must come after it"),
        ([4, 4, 0, 0, 0, 4], 3, "node 6 has a parent but is no parent"),
        ([-1, 4, 4], 3, "a parent of -1"),
    ],
)
def test_what_is_no_forest(parents: list[float], largest: int, why: str) -> None:
    with pytest.raises(StoreError, match=f"photo: .*{why}.*; delete the cut, run again"):
        Tree.of(np.array(parents), largest, "photo")

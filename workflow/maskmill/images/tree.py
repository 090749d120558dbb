"""Trees of segments: parts within parts, as the cuts with `Traits.tree` find them.

The segments of an image are its leaves, numbers 1..n of a map. A node above them is the union of its children. What is
stored is one number a node, its parent, so that a tree of n leaves and at most 2 n - 1 nodes costs as much as its
leaves, and stages that know nothing of trees read a map of segments as ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from maskmill.errors import StoreError


def most_nodes(leaves: int) -> int:
    """The most nodes of a forest with so many leaves, where every inner node has two children or more."""
    return max(2 * leaves - 1, 0)


@dataclass(frozen=True)
class Tree:
    """A forest over the segments of an image.

    Nodes 1..leaves are the segments; inner nodes follow, each with a larger number than its children.

    Attributes:
        parents: int64 [nodes], the parent of node i at i - 1; 0 for a root.
        leaves: how many nodes are segments.
    """

    parents: np.ndarray
    leaves: int

    @classmethod
    def of(cls, parents: np.ndarray, largest: int, image_id: str) -> Tree:
        """The tree of the diagnostic `parents` [P] of an image, 0 beyond its nodes.

        Args:
            largest: the largest number of a segment; it counts where there is no inner node, because refinement may
                have left the last segments without a cell.

        Raises:
            StoreError: the numbers are no forest; names the image and the node.
        """
        given = np.asarray(parents).ravel()
        numbers = np.nan_to_num(given).astype(np.int64)
        if not np.array_equal(numbers, given):
            raise StoreError(f"{image_id}: parents of segments are no whole numbers; delete the cut, run again")
        inner = np.unique(numbers[numbers > 0])
        leaves = int(inner[0]) - 1 if len(inner) else largest
        nodes = int(inner[-1]) if len(inner) else largest
        found = np.zeros(nodes, np.int64)
        found[: min(nodes, len(numbers))] = numbers[:nodes]
        problem = _problem(found, leaves, largest)
        if problem or numbers[nodes:].any():
            why = problem or f"node {nodes + 1 + int(numbers[nodes:].argmax())} has a parent but is no parent"
            raise StoreError(f"{image_id}: parents of segments are no forest: {why}; delete the cut, run again")
        return cls(found, leaves)

    @classmethod
    def of_groups(cls, leaves: int, groups: Sequence[np.ndarray]) -> Tree:
        """The tree of sets of leaves that are nested or disjoint.

        Args:
            groups: bool [leaves] each, every one of them after those that it holds. A group that equals a node that is
                there already makes none.

        Raises:
            ValueError: a group that cuts through another, or one that is empty.
        """
        parents = [0] * leaves
        top = np.arange(1, leaves + 1)  # the root above every leaf, so far
        for group in groups:
            below = np.unique(top[group])
            if not len(below) or not np.array_equal(np.isin(top, below), group):
                raise ValueError("groups of leaves must be nested or disjoint, smaller ones first")
            if len(below) > 1:
                parents.append(0)
                for child in below.tolist():
                    parents[child - 1] = len(parents)
                top[group] = len(parents)
        return cls(np.array(parents, np.int64), leaves)

    @property
    def nodes(self) -> int:
        """Leaves and inner nodes."""
        return len(self.parents)

    @cached_property
    def members(self) -> np.ndarray:
        """Which leaves each node holds: bool [nodes, leaves]; a leaf holds itself."""
        found = np.zeros((self.nodes, self.leaves), bool)
        found[: self.leaves] = np.eye(self.leaves, dtype=bool)
        for node, parent in enumerate(self.parents.tolist()):  # children come first: they are complete here
            if parent:
                found[parent - 1] |= found[node]
        return found

    @cached_property
    def depths(self) -> np.ndarray:
        """Edges between each node and its root: int64 [nodes]."""
        found = np.zeros(self.nodes, np.int64)
        for node in range(self.nodes - 1, -1, -1):
            if self.parents[node]:
                found[node] = found[self.parents[node] - 1] + 1
        return found

    def masks(self, segments: np.ndarray) -> np.ndarray:
        """Mask of every node, bool [nodes, h, w], in segments [h, w] (0 = none)."""
        table = np.zeros((self.nodes, max(self.leaves, int(segments.max(initial=0))) + 1), bool)
        table[:, 1 : self.leaves + 1] = self.members
        return table[:, segments]

    def padded(self, length: int) -> np.ndarray:
        """The diagnostic `parents`: float32 [length], 0 beyond the nodes."""
        found = np.zeros(length, np.float32)
        found[: self.nodes] = self.parents
        return found


def members(parents: np.ndarray, leaves: int) -> np.ndarray:
    """Which leaves each node holds, bool [nodes, leaves], by the diagnostic `parents` [P] of an image.

    Raises:
        StoreError: the numbers are no forest over so many leaves.
    """
    return Tree.of(parents, leaves, "tree").members


def _problem(parents: np.ndarray, leaves: int, largest: int) -> str | None:
    """Why parents [nodes] are no forest over the segments 1..leaves, or None."""
    nodes = len(parents)
    if largest > leaves:
        return f"segment {largest} is the parent of another"
    if (parents < 0).any() or (parents > nodes).any():
        return f"a parent of {int(parents.min())} or {int(parents.max())} for {nodes} nodes"
    order = np.arange(1, nodes + 1)
    early = (parents > 0) & (parents <= order)
    if early.any():
        node = int(early.argmax())
        return f"node {node + 1} has the parent {int(parents[node])}, which must come after it"
    children = np.bincount(parents, minlength=nodes + 1)[1:]
    lonely = (children < 2) & (order > leaves)
    if lonely.any():
        node = int(lonely.argmax())
        return f"inner node {node + 1} has {int(children[node])} children, which must be two or more"
    return None

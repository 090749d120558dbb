"""Union of neighbouring tokens in the order of their differences: the loops of the cut `felzenszwalb`."""

from __future__ import annotations

import numpy as np

from maskmill.jit import compiler

_compile = compiler()


def neighbour_edges(features: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of the eight neighbours on a grid, (first, second) numbers of tokens, and the distance of their features.

    Args:
        features: [h, w, d] float64.
    """
    number = np.arange(features.shape[0] * features.shape[1]).reshape(features.shape[:2])
    every, here, there = slice(None), slice(None, -1), slice(1, None)
    pairs = [
        ((every, here), (every, there)),
        ((here, every), (there, every)),
        ((here, here), (there, there)),
        ((there, here), (here, there)),
    ]
    first, second = (np.concatenate([number[pair[end]].ravel() for pair in pairs]) for end in (0, 1))
    distance = [np.sqrt(np.square(features[a] - features[b]).sum(2)).ravel() for a, b in pairs]
    return first, second, np.concatenate(distance)


@_compile
def _root(parent: np.ndarray, i: int) -> int:
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@_compile
def joined(first, second, distance, count, scale) -> np.ndarray:  # type: ignore[no-untyped-def]
    """The part of every token, as the number of one of its tokens, int64 [count]; edges ascend by their distance.

    Parts are joined while the distance is at most the largest within either of them plus `scale` (a float) over its
    number of tokens.
    """
    parent = np.arange(count)
    size = np.ones(count, np.int64)
    bound = np.full(count, scale)
    for e in range(len(distance)):
        a, b = _root(parent, first[e]), _root(parent, second[e])
        if a != b and distance[e] <= min(bound[a], bound[b]):
            parent[b] = a
            size[a] += size[b]
            bound[a] = distance[e] + scale / size[a]
    for i in range(count):
        parent[i] = _root(parent, i)
    return parent


@_compile
def absorbed(first, second, parent, smallest) -> np.ndarray:  # type: ignore[no-untyped-def]
    """Parts [n] of which those with fewer than `smallest` tokens have joined the neighbour that differs least."""
    parent = parent.copy()
    size = np.zeros(len(parent), np.int64)
    for i in range(len(parent)):
        size[parent[i]] += 1
    for e in range(len(first)):
        a, b = _root(parent, first[e]), _root(parent, second[e])
        if a != b and min(size[a], size[b]) < smallest:
            parent[b] = a
            size[a] += size[b]
    for i in range(len(parent)):
        parent[i] = _root(parent, i)
    return parent

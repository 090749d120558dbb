"""Superpixel metrics: by hand, against plain loops, and their conventions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskmill.evaluate.superpixels import (
    RULES,
    Superpixels,
    achievable_accuracy,
    boundaries,
    boundary_recall,
    overlaps,
    undersegmentation,
)


def test_by_hand() -> None:
    """Two regions of 8 and 4 pixels; a segment of 6, one of 3 + 1, and one of 2 pixels."""
    pairs = np.array([[6, 0], [2, 2], [0, 2]])
    assert undersegmentation(pairs) == (2 + 2) / 12  # of the mixed one 2 pixels lie out of either region
    assert achievable_accuracy(pairs) == (6 + 2 + 2) / 12
    assert undersegmentation(np.array([[5, 1]])) == 2 / 6  # the lesser part, seen from either region


def test_boundaries_are_both_sides_of_an_edge_and_no_void() -> None:
    ids, void = np.array([[1, 1, 2, 2]]), np.zeros((1, 4), bool)
    assert boundaries(ids, void).tolist() == [[False, True, True, False]]
    void[0, 2] = True
    assert not boundaries(ids, void).any()
    assert boundaries(np.array([[1], [1], [3]]), np.zeros((3, 1), bool)).ravel().tolist() == [False, True, True]


def test_boundary_recall_within_a_distance() -> None:
    labels, segments, void = np.zeros((3, 12), int), np.zeros((3, 12), int), np.zeros((3, 12), bool)
    labels[:, 6:], segments[:, 8:] = 1, 1  # boundaries: columns 5 and 6, and 7 and 8
    assert boundary_recall(segments, labels, void, 0.5) == 0.0
    assert boundary_recall(segments, labels, void, 1.0) == 0.5
    assert boundary_recall(segments, labels, void, 2.0) == 1.0
    assert boundary_recall(labels, labels, void, 0.0) == 1.0
    assert boundary_recall(0 * labels, labels, void, 99.0) == 0.0
    assert boundary_recall(labels, 0 * labels, void, 2.0) is None


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 9), st.floats(0, 4))
def test_against_plain_loops(seed: int, h: int, w: int, distance: float) -> None:
    rng = np.random.default_rng(seed)
    labels, segments = rng.integers(0, 3, (h, w)) * 7, rng.integers(0, 4, (h, w))
    void = rng.random((h, w)) < 0.2
    cells = [(y, x) for y in range(h) for x in range(w)]
    seen = [p for p in cells if not void[p]]
    if not seen:
        return
    error = best = 0
    for s in np.unique(segments):
        own = [labels[p] for p in seen if segments[p] == s]
        counts = [own.count(g) for g in np.unique(labels)]
        error += sum(min(count, len(own) - count) for count in counts)
        best += max(counts)
    pairs = overlaps(segments[~void], labels[~void])
    assert undersegmentation(pairs) == error / len(seen)
    assert achievable_accuracy(pairs) == best / len(seen)

    def edge(ids: np.ndarray) -> list[tuple[int, int]]:
        def differs(p: tuple[int, int], q: tuple[int, int]) -> bool:
            return abs(p[0] - q[0]) + abs(p[1] - q[1]) == 1 and ids[p] != ids[q]

        return [p for p in seen if any(differs(p, q) for q in seen)]

    wanted, found = edge(labels), edge(segments)
    expected = None
    if wanted:
        hits = [any(math.hypot(p[0] - q[0], p[1] - q[1]) <= distance + 1e-9 for q in found) for p in wanted]
        expected = sum(hits) / len(hits)
    assert boundary_recall(segments, labels, void, distance) == expected


def test_means_over_images() -> None:
    labels = np.array([[0, 0, 5, 5]])
    void = np.zeros((1, 4), bool)
    metric = Superpixels()
    assert metric.result() == dict.fromkeys(RULES)
    metric.add(labels, labels, void)
    metric.add(np.zeros((1, 4), int), labels, void)
    metric.add(np.zeros((1, 4), int), 0 * labels, void)  # one region: no boundary
    metric.add(labels, labels, ~void)
    assert metric.images == 3
    found = metric.result()
    assert found["boundary_recall"] == found["boundary_recall_2px"] == 0.5
    assert found["achievable_accuracy"] == pytest.approx((1 + 0.5 + 1) / 3)
    assert found["undersegmentation"] == pytest.approx((0 + 1 + 0) / 3)
    assert found["superpixels"] == pytest.approx(4 / 3)
    with pytest.raises(ValueError, match="segments of shape"):
        metric.add(labels, labels.T, void)

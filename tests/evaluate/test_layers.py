"""Predicted instances are scored like segments where they do not overlap, and as they are where they do."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskmill.errors import StoreError
from maskmill.evaluate.layers import Layers, layer_boxes
from maskmill.evaluate.objects import METRICS, Scene
from maskmill.evaluate.truth import Truth


def truth(seed: int, void: float = 0.1) -> Truth:
    rng = np.random.default_rng(seed)
    objects = np.zeros((12, 16), np.int32)
    objects[1:6, 1:7], objects[7:11, 3:15] = 1, 2
    unknown = rng.random(objects.shape) < void
    objects[unknown] = 0
    return Truth(objects, unknown, 2)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 9999), st.integers(0, 5))
def test_instances_that_do_not_overlap_are_scored_like_segments(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    segments = rng.integers(0, count + 1, (12, 16)).astype(np.int32)
    scores = rng.integers(1, 4, count) / 4  # ties
    there = truth(seed)
    scene = Scene.of(there, segments, scores, "a")
    masks = segments[None] == np.arange(1, count + 1)[:, None, None]
    layers = Layers.of(there, masks, scores, "a")
    assert layers.scores.tolist() == scene.scores.tolist()
    np.testing.assert_array_equal(layers.segment_boxes, scene.segment_boxes)
    np.testing.assert_array_equal(layers.mask_iou, scene.mask_iou)
    assert layers.coded_segments() == scene.coded_segments()
    assert layers.coded_objects() == scene.coded_objects()
    results = []
    for seen in (scene, layers):
        metrics = [METRICS[name]() for name in ("corloc", "ap", "mbo", "fg_ari")]
        for metric in metrics:
            metric.add("a", seen)
        results.append([metric.result() for metric in metrics])
    assert results[0] == results[1]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 9999), st.integers(1, 6))
def test_overlapping_instances_are_not_flattened_and_their_order_does_not_matter(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    masks, scores = rng.random((count, 12, 16)) < 0.5, rng.integers(1, 4, count) / 4
    there = truth(seed)
    found = Layers.of(there, masks, scores, "a")
    turn = rng.permutation(count)
    again = Layers.of(there, masks[turn], scores[turn], "a")
    assert found.coded_segments() == again.coded_segments()
    for i in range(2):
        for j, mask in enumerate(found.masks):
            thing = there.objects == i + 1
            assert found.mask_iou[i, j] == (mask & thing).sum() / (mask | thing).sum()
    assert sorted(m.sum() for m in found.masks) == sorted((m & ~there.void).sum() for m in masks)


def test_the_same_mask_twice_is_one_hit_and_one_mistake() -> None:
    there = truth(0, void=0)
    twice = np.stack([there.objects == 1, there.objects == 1, there.objects == 2])
    metric = METRICS["ap"]()
    metric.add("a", Layers.of(there, twice, np.array([0.9, 0.8, 0.7]), "a"))
    result = metric.result()
    assert result["mask_ar100"] == 1.0
    # Precision 1 up to recall 1/2, then 2/3: 51 and 50 of the 101 recall points.
    assert result["mask_ap50"] == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_instances_in_void_are_none_and_scores_are_numbers() -> None:
    there = truth(0, void=0)
    void = Truth(np.zeros_like(there.objects), np.ones_like(there.void), 0)
    found = Layers.of(void, np.ones((1, 12, 16), bool), np.array([0.5]), "a")
    assert len(found.scores) == 0
    assert layer_boxes(found.masks).shape == (0, 4)
    with pytest.raises(StoreError, match="a: an instance's score is no number"):
        Layers.of(there, np.ones((1, 12, 16), bool), np.array([np.nan]), "a")

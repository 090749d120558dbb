"""Every node of a tree is scored as the mask that it is, and recall by size as a plain count has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from maskmill.errors import StoreError
from maskmill.evaluate.layers import Layers
from maskmill.evaluate.nodes import Nodes
from maskmill.evaluate.objects import AverageRecall, metrics_of
from maskmill.evaluate.run_objects import run
from maskmill.evaluate.truth import Truth
from maskmill.images.tree import Tree
from maskmill.store.artefact import read_json, write_table
from maskmill.store.ragged import RaggedWriter

WANTED = ("corloc", "ap", "ar", "mbo", "fg_ari")


def truth(seed: int, void: float) -> Truth:
    rng = np.random.default_rng(seed)
    objects = np.zeros((12, 16), np.int32)
    objects[1:6, 1:7], objects[7:11, 3:15] = 1, 2
    unknown = rng.random(objects.shape) < void
    objects[unknown] = 0
    return Truth(objects, unknown, 2)


def tree(rng: np.random.Generator, leaves: int) -> Tree:
    """Leaves joined at random, two or three at a time."""
    parts, groups = [np.arange(leaves) == i for i in range(leaves)], []
    while len(parts) > 1 and rng.random() < 0.8:
        chosen = rng.permutation(len(parts))[: rng.integers(2, 4)]
        groups.append(np.any([parts[i] for i in chosen], axis=0))
        parts = [part for i, part in enumerate(parts) if i not in chosen] + [groups[-1]]
    return Tree.of_groups(leaves, groups)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 9999), st.integers(0, 7), st.sampled_from([0.0, 0.3]))
def test_nodes_are_scored_like_their_masks(seed: int, leaves: int, void: float) -> None:
    rng = np.random.default_rng(seed)
    made = tree(rng, leaves)
    segments = rng.integers(0, leaves + 1, (12, 16)).astype(np.uint8)
    scores = rng.integers(1, 4, made.nodes) / 4  # ties
    there = truth(seed, void)
    found = Nodes.of(there, segments, made.padded(20), np.append(scores, np.zeros(20)), "a")
    layers = Layers.of(there, made.masks(segments), scores, "a")
    assert found.scores.tolist() == layers.scores.tolist()
    np.testing.assert_array_equal(found.segment_boxes, layers.segment_boxes)
    np.testing.assert_allclose(found.mask_iou, layers.mask_iou, rtol=1e-12)
    np.testing.assert_array_equal(found.pairs, layers.pairs)
    assert found.coded_segments() == layers.coded_segments()
    assert found.coded_objects() == layers.coded_objects()
    results = []
    for seen in (found, layers):
        metrics = metrics_of(WANTED)
        for metric in metrics:
            metric.add("a", seen)
        results.append({name: value for metric in metrics for name, value in metric.result().items()})
    assert results[0] == pytest.approx(results[1])


def test_nodes_that_void_makes_equal_are_one() -> None:
    segments = np.array([[1, 1, 2, 3]])
    there = Truth(np.array([[1, 1, 0, 0]], np.int32), np.array([[False, False, True, False]]), 1)
    parents = np.array([4, 4, 0, 0], np.float32)
    found = Nodes.of(there, segments, parents, np.array([0.2, 0.9, 0.5, 0.8]), "a")
    assert found.scores.tolist() == [0.8, 0.5]  # segment 2 is void, so that node 4 is segment 1
    assert found.mask_iou.tolist() == [[1.0, 0.0]]


def test_trees_that_cannot_be() -> None:
    there, segments = truth(0, 0.0), np.ones((12, 16), np.uint8)
    with pytest.raises(StoreError, match="photo: parents of segments are no forest: inner node 2 has 1 children"):
        Nodes.of(there, segments, np.array([2, 0]), np.ones(2), "photo")
    with pytest.raises(StoreError, match="photo: a node of the tree has no score"):
        Nodes.of(there, segments, np.array([0, 0]), np.array([np.nan]), "photo")


# --- recall by size -------------------------------------------------------------------------------------------------


def recall(objects: np.ndarray, masks: np.ndarray) -> dict[str, float | None]:
    there = Truth(objects.astype(np.int32), np.zeros(objects.shape, bool), int(objects.max()))
    metric = AverageRecall()
    metric.add("a", Layers.of(there, masks, np.linspace(1, 0.5, len(masks)), "a"))
    return metric.result()


def test_recall_by_size_by_hand() -> None:
    """31 x 32 pixels are small, 40 x 40 medium, 96 x 97 large."""
    objects = np.zeros((200, 200), np.int32)
    objects[:31, :32], objects[40:80, :40], objects[100:196, :97] = 1, 2, 3
    masks = np.stack([objects == 1, objects == 2, objects == 3])
    masks[1, 60:] = False  # IoU 1/2 with the second: found at the first of ten thresholds
    masks[2, 190:] = False  # 90/96 with the third: at .50, .55, ..., .90
    found = recall(objects, masks)
    assert found["mask_ars"] == 1.0
    assert found["mask_arm"] == pytest.approx(0.1)
    assert found["mask_arl"] == pytest.approx(0.9)
    assert found["mask_ar1000"] == pytest.approx((1 + 0.1 + 0.9) / 3)
    small = recall(np.where(objects == 1, 1, 0), masks)
    assert (small["mask_ars"], small["mask_arm"], small["box_arl"]) == (1.0, None, None)
    assert set(AverageRecall().result().values()) == {None}


def test_a_hundred_proposals_are_not_a_thousand() -> None:
    objects = np.zeros((40, 150), np.int32)
    objects[0, 149] = 1
    masks = np.zeros((150, 40, 150), bool)
    masks[np.arange(150), 0, np.arange(150)] = True  # the last one is the object
    found = recall(objects, masks)
    assert (found["mask_ars"], found["mask_ar1000"]) == (0.0, 1.0)


# --- files ----------------------------------------------------------------------------------------------------------


def scored(folder: Path, objects: Any, **per_image: Any) -> list[dict[str, Any]]:
    """Segments 1 and 2, halves of an object, and 3."""
    label = np.kron(np.array([[5, 5, 0], [0, 0, 7]]), np.ones((8, 8), int)).astype(np.uint8)
    Image.fromarray(label).save(folder / "a.png")
    columns = {"id": ["a"], "path": ["a.jpg"], "width": [24], "height": [16], "shard": ["s0"]}
    write_table(folder / "manifest.parquet", pa.table(columns | {"label": [str(folder / "a.png")]}))
    segments = np.array([[1, 2, 0], [0, 0, 3]], np.uint8)
    with RaggedWriter(folder / "s0.zarr", "segments", dtype="uint8", attrs={"method": "drawn"}) as out:
        out.append("a", segments, **{name: np.array(value, np.float32) for name, value in per_image.items()})
    run([folder / "s0.zarr"], folder / "manifest.parquet", {"objects": objects}, folder / "objects.json", "r")
    found: list[dict[str, Any]] = read_json(folder / "objects.json")["scores"]
    return found


def test_a_run_scores_every_node_of_a_store_with_parents(tmp_path: Path) -> None:
    parents, scores = [4, 4, 0, 0, 0], [0.2, 0.3, 0.5, 0.9, 0]
    found = scored(tmp_path, {"metrics": ["mbo", "ap", "ar", "saliency"]}, parents=parents, scores=scores)
    objects, saliency = found
    assert objects["segments"] == 4
    assert objects["mbo"] == objects["mask_ar100"] == objects["mask_ars"] == 1.0
    assert objects["mask_ar1"] == 0.5
    assert "ar" in objects["protocol"]["rules"]
    assert saliency["iou"] == 1.0
    flat = tmp_path / "flat"
    flat.mkdir()
    leaves = scored(flat, {"metrics": ["mbo", "ap"]}, scores=scores[:3])[0]
    assert leaves["mbo"] == 0.75
    assert "ar" not in leaves["protocol"]["rules"]


def test_a_run_scores_segments_as_superpixels(tmp_path: Path) -> None:
    (found,) = scored(tmp_path, {"metrics": ["superpixels"], "min_area": 0.2}, confidence=1)
    assert found["protocol"]["name"] == "superpixels"
    assert found["protocol"]["foreground"] == "every id"
    assert found["protocol"]["min_area"] == 0  # regions, whatever is an object
    assert (found["images"], found["superpixels"]) == (1, 4.0)
    assert found["achievable_accuracy"] == found["boundary_recall"] == 1.0
    assert found["undersegmentation"] == 0.0
